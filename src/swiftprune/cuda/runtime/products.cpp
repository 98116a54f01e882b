#include "swiftprune/cuda/runtime/products.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <string>

#include <cublasLt.h>

namespace swiftprune::cuda {
namespace {

constexpr std::uint64_t kWorkspaceBytes = std::uint64_t{32} << 20;  // what NVIDIA advises for Hopper

void check_blas(cublasStatus_t status, std::source_location where = std::source_location::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorKind::kDevice, "cuBLASLt: status {} ({}:{}); the device may be lost, nothing was written",
       static_cast<int>(status), where.file_name(), where.line());
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      break;
  }
  expect(false, "a product of F32, F16 or BF16");
  return CUDA_R_32F;
}

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return static_cast<std::uint32_t>(
      std::min<std::uintptr_t>(256, address == 0 ? 256 : address & (~address + 1)));
}

}  // namespace

struct Products::Library {
  void* library = nullptr;
#define SWIFTPRUNE_CUBLASLT(name) decltype(&cublasLt##name) name = nullptr
  SWIFTPRUNE_CUBLASLT(Create);
  SWIFTPRUNE_CUBLASLT(Destroy);
  SWIFTPRUNE_CUBLASLT(MatmulDescCreate);
  SWIFTPRUNE_CUBLASLT(MatmulDescDestroy);
  SWIFTPRUNE_CUBLASLT(MatmulDescSetAttribute);
  SWIFTPRUNE_CUBLASLT(MatrixLayoutCreate);
  SWIFTPRUNE_CUBLASLT(MatrixLayoutDestroy);
  SWIFTPRUNE_CUBLASLT(MatmulPreferenceCreate);
  SWIFTPRUNE_CUBLASLT(MatmulPreferenceDestroy);
  SWIFTPRUNE_CUBLASLT(MatmulPreferenceSetAttribute);
  SWIFTPRUNE_CUBLASLT(MatmulAlgoGetHeuristic);
  SWIFTPRUNE_CUBLASLT(Matmul);
#undef SWIFTPRUNE_CUBLASLT

  static Library& open() {
    static Library opened;
    return opened;
  }

 private:
  template <class Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr)
      fail(ErrorKind::kDevice, "cuBLASLt: found no function {}; update the CUDA toolkit", name);
  }

  Library() {
    const std::string version = std::to_string(CUBLAS_VER_MAJOR);
    for (const std::string& name :
         {"libcublasLt.so." + version, SWIFTPRUNE_CUDA_LIBRARIES "/libcublasLt.so." + version,
          std::string("libcublasLt.so")}) {
      if (library == nullptr) library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) {
      fail(ErrorKind::kDevice,
           "cuBLASLt: found no libcublasLt.so.{}; install the CUDA {} libraries, name their folder in "
           "LD_LIBRARY_PATH, or use --device cpu",
           version, version);
    }
    find("cublasLtCreate", Create);
    find("cublasLtDestroy", Destroy);
    find("cublasLtMatmulDescCreate", MatmulDescCreate);
    find("cublasLtMatmulDescDestroy", MatmulDescDestroy);
    find("cublasLtMatmulDescSetAttribute", MatmulDescSetAttribute);
    find("cublasLtMatrixLayoutCreate", MatrixLayoutCreate);
    find("cublasLtMatrixLayoutDestroy", MatrixLayoutDestroy);
    find("cublasLtMatmulPreferenceCreate", MatmulPreferenceCreate);
    find("cublasLtMatmulPreferenceDestroy", MatmulPreferenceDestroy);
    find("cublasLtMatmulPreferenceSetAttribute", MatmulPreferenceSetAttribute);
    find("cublasLtMatmulAlgoGetHeuristic", MatmulAlgoGetHeuristic);
    find("cublasLtMatmul", Matmul);
  }
};

// Column-major names are the library's: our c [M, N] is its D [N, M], our b its A, our a its B.
struct Products::Plan {
  explicit Plan(Library& owner) : library(owner) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (description != nullptr) library.MatmulDescDestroy(description);
    for (cublasLtMatrixLayout_t layout : {a, b, c}) {
      if (layout != nullptr) library.MatrixLayoutDestroy(layout);
    }
  }
  Library& library;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

Products::Products(DeviceMemory& memory, cudaStream_t stream)
    : library_(Library::open()),
      stream_(stream),
      workspace_(memory, kWorkspaceBytes, "workspace of cuBLASLt") {
  cublasLtHandle_t handle = nullptr;
  check_blas(library_.Create(&handle));
  handle_ = handle;
}

Products::~Products() {
  plans_.clear();
  library_.Destroy(static_cast<cublasLtHandle_t>(handle_));
}

const Products::Plan& Products::plan(const Product& p) {
  const std::int64_t m = p.c.rows;
  const std::int64_t n = p.c.cols;
  const std::int64_t k = p.a_transposed ? p.a.rows : p.a.cols;
  const std::array<std::uint32_t, 3> alignments = {alignment_of(p.b.data), alignment_of(p.a.data),
                                                   alignment_of(p.c.data)};
  const int flags = (p.a_transposed ? 1 : 0) | (p.b_transposed ? 2 : 0) | (p.bias != nullptr ? 4 : 0) |
                    (p.tf32 ? 8 : 0) | (p.beta != 0.0f ? 16 : 0);
  const Key key{static_cast<int>(p.a.dtype),
                static_cast<int>(p.c.dtype),
                flags,
                m,
                n,
                k,
                p.a.stride,
                p.b.stride,
                p.c.stride,
                0,
                alignments[0] | (alignments[1] << 10) | (alignments[2] << 20)};
  auto& slot = plans_[key];
  if (slot) return *slot;
  auto made = std::make_unique<Plan>(library_);
  const cublasComputeType_t compute =
      p.a.dtype == DType::kF32 && p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  check_blas(library_.MatmulDescCreate(&made->description, compute, CUDA_R_32F));
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check_blas(library_.MatmulDescSetAttribute(made->description, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(type_of(p.c.dtype)));
  }
  const auto layout = [&](cublasLtMatrixLayout_t& target, const DeviceView& view) {
    check_blas(library_.MatrixLayoutCreate(&target, type_of(view.dtype),
                                           static_cast<std::uint64_t>(view.cols),
                                           static_cast<std::uint64_t>(view.rows), view.stride));
  };
  layout(made->a, p.b);
  layout(made->b, p.a);
  layout(made->c, p.c);

  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(library_.MatmulPreferenceCreate(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_blas(library_.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      library_.MatmulAlgoGetHeuristic(static_cast<cublasLtHandle_t>(handle_), made->description, made->a,
                                      made->b, made->c, made->c, preference, 1, &found, &count);
  library_.MatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    fail(ErrorKind::kDevice,
         "cuBLASLt: found no algorithm for [{}, {}, {}] of {} (status {}); use --device cpu", m, n, k,
         name_of(p.a.dtype), static_cast<int>(status));
  }
  made->algorithm = found.algo;
  slot = std::move(made);
  return *slot;
}

void Products::run(const Product& p) {
  const std::int64_t k = p.a_transposed ? p.a.rows : p.a.cols;
  expect(p.a.dtype == p.b.dtype, "product: operands of one dtype");
  expect((p.a_transposed ? p.a.cols : p.a.rows) == p.c.rows &&
             (p.b_transposed ? p.b.rows : p.b.cols) == p.c.cols &&
             (p.b_transposed ? p.b.cols : p.b.rows) == k,
         "product: shapes agree");
  if (p.c.numel() == 0) return;
  const Plan& ready = plan(p);
  if (p.bias != nullptr) {
    check_blas(library_.MatmulDescSetAttribute(ready.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias,
                                               sizeof(p.bias)));
  }
  check_blas(library_.Matmul(static_cast<cublasLtHandle_t>(handle_), ready.description, &p.alpha, p.b.data,
                             ready.a, p.a.data, ready.b, &p.beta, p.c.data, ready.c, p.c.data, ready.c,
                             &ready.algorithm, workspace_.data(), kWorkspaceBytes, stream_));
}

void Products::linear(DeviceView x, DeviceView weight, const void* bias, DeviceView y, bool accumulate) {
  Product p;
  p.a = x;
  p.b = weight;
  p.c = y;
  p.b_transposed = true;
  p.beta = accumulate ? 1.0f : 0.0f;
  p.bias = bias;
  run(p);
}

}  // namespace swiftprune::cuda
