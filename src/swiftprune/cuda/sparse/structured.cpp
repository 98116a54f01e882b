#include "swiftprune/cuda/sparse/structured.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include <cusparseLt.h>

namespace swiftprune::cuda {
namespace {

constexpr std::uint32_t kAlignment = 16;  // bytes, of every operand

void check_sparse(cusparseStatus_t status, std::source_location where = std::source_location::current()) {
  if (status == CUSPARSE_STATUS_SUCCESS) return;
  fail(ErrorKind::kDevice, "cuSPARSELt: status {} ({}:{}); the device may be lost", static_cast<int>(status),
       where.file_name(), where.line());
}

constexpr cudaDataType kType = CUDA_R_16BF;
constexpr std::size_t kMostPlans = 256;  // of prompts of different lengths

void check_operands(DeviceView x, DeviceView y, std::int64_t rows, std::int64_t cols) {
  expect(x.cols == cols && y.cols == rows && x.rows == y.rows && x.rows % 8 == 0 && x.stride == x.cols &&
             y.stride == y.cols && x.dtype == DType::kBF16 && y.dtype == DType::kBF16,
         "structured: shapes agree");
}

#define SWIFTPRUNE_CUSPARSELT(X) \
  X(Init)                        \
  X(Destroy)                     \
  X(GetProperty)                 \
  X(DenseDescriptorInit)         \
  X(StructuredDescriptorInit)    \
  X(MatDescriptorDestroy)        \
  X(MatmulDescriptorInit)        \
  X(MatmulAlgSelectionInit)      \
  X(MatmulAlgGetAttribute)       \
  X(MatmulAlgSetAttribute)       \
  X(MatmulPlanInit)              \
  X(MatmulPlanDestroy)           \
  X(MatmulGetWorkspace)          \
  X(MatmulSearch)                \
  X(Matmul)                      \
  X(SpMMACompressedSize2)        \
  X(SpMMACompress2)

// Opened once; its functions, or why there are none.
struct Functions {
#define SWIFTPRUNE_DECLARE(name) decltype(&cusparseLt##name) name = nullptr;
  SWIFTPRUNE_CUSPARSELT(SWIFTPRUNE_DECLARE)
#undef SWIFTPRUNE_DECLARE
  std::string why_not;

  static const Functions& open() {
    static const Functions opened;
    return opened;
  }

 private:
  Functions() {
    const char* named = std::getenv("SWIFTPRUNE_CUSPARSELT");
    void* library = ::dlopen(named != nullptr ? named : "libcusparseLt.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      why_not = "cuSPARSELt: found no libcusparseLt.so.0; name the file in SWIFTPRUNE_CUSPARSELT";
      return;
    }
    const auto find = [&](const char* name, auto& function) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
      if (function == nullptr && why_not.empty()) {
        why_not =
            std::string("cuSPARSELt: found no function ") + name + "; use the version it was built with";
      }
    };
#define SWIFTPRUNE_FIND(name) find("cusparseLt" #name, name);
    SWIFTPRUNE_CUSPARSELT(SWIFTPRUNE_FIND)
#undef SWIFTPRUNE_FIND
    if (!why_not.empty()) return;
    // Before version 1 the descriptors' sizes change from one minor version to the next.
    int major = -1;
    int minor = -1;
    GetProperty(MAJOR_VERSION, &major);
    GetProperty(MINOR_VERSION, &minor);
    if (major != CUSPARSELT_VER_MAJOR || minor != CUSPARSELT_VER_MINOR) {
      why_not = fmt::format("cuSPARSELt: found version {}.{}, this program was built with {}.{}", major,
                            minor, CUSPARSELT_VER_MAJOR, CUSPARSELT_VER_MINOR);
    }
  }
};

}  // namespace

struct StructuredProducts::Library {
  const Functions& call = Functions::open();
  cusparseLtHandle_t handle{};
};

struct StructuredProducts::Plan {
  explicit Plan(const Functions& functions) : call(functions) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (planned) call.MatmulPlanDestroy(&plan);
    for (int i = 0; i < described; ++i) call.MatDescriptorDestroy(&matrices[i]);
  }
  const Functions& call;
  cusparseLtMatDescriptor_t matrices[3]{};  // weight, x, y
  cusparseLtMatmulDescriptor_t matmul{};
  cusparseLtMatmulAlgSelection_t algorithm{};
  cusparseLtMatmulPlan_t plan{};
  int described = 0;
  bool planned = false;
  DeviceBuffer workspace;
};

std::string StructuredProducts::why_not() { return Functions::open().why_not; }

StructuredProducts::StructuredProducts(DeviceMemory& memory, cudaStream_t stream)
    : memory_(memory), stream_(stream), library_(std::make_unique<Library>()) {
  if (!library_->call.why_not.empty()) fail(ErrorKind::kDevice, "{}", library_->call.why_not);
  check_sparse(library_->call.Init(&library_->handle));
}

StructuredProducts::~StructuredProducts() {
  plans_.clear();
  library_->call.Destroy(&library_->handle);
}

StructuredProducts::Weight StructuredProducts::compress(DeviceView dense) {
  const Functions& call = library_->call;
  expect(dense.stride == dense.cols && dense.rows % 16 == 0 && dense.cols % 16 == 0 &&
             dense.dtype == DType::kBF16,
         "compress: a contiguous BF16 matrix, multiples of 16");
  cusparseLtMatDescriptor_t matrix{};
  check_sparse(call.StructuredDescriptorInit(&library_->handle, &matrix, dense.rows, dense.cols, dense.cols,
                                             kAlignment, kType, CUSPARSE_ORDER_ROW,
                                             CUSPARSELT_SPARSITY_50_PERCENT));
  std::size_t bytes = 0;
  std::size_t scratch_bytes = 0;
  check_sparse(call.SpMMACompressedSize2(&library_->handle, &matrix, &bytes, &scratch_bytes));
  Weight weight;
  weight.rows_ = dense.rows;
  weight.cols_ = dense.cols;
  weight.compressed_ = DeviceBuffer(memory_, bytes, "a 2:4 weight");
  const DeviceBuffer scratch(memory_, scratch_bytes, "a 2:4 weight");
  check_sparse(call.SpMMACompress2(&library_->handle, &matrix, 1, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                   dense.data, weight.compressed_.data(), scratch.data(), stream_));
  check(cudaStreamSynchronize(stream_));
  check_sparse(call.MatDescriptorDestroy(&matrix));
  return weight;
}

// A plan without an algorithm.
std::unique_ptr<StructuredProducts::Plan> StructuredProducts::describe(const Weight& weight,
                                                                       std::int64_t tokens) const {
  const Functions& call = library_->call;
  auto made = std::make_unique<Plan>(call);
  const cusparseLtHandle_t* handle = &library_->handle;
  check_sparse(call.StructuredDescriptorInit(handle, &made->matrices[0], weight.rows_, weight.cols_,
                                             weight.cols_, kAlignment, kType, CUSPARSE_ORDER_ROW,
                                             CUSPARSELT_SPARSITY_50_PERCENT));
  ++made->described;
  // x and y as the library sees them, [I, N] and [O, N] by columns.
  check_sparse(call.DenseDescriptorInit(handle, &made->matrices[1], weight.cols_, tokens, weight.cols_,
                                        kAlignment, kType, CUSPARSE_ORDER_COL));
  ++made->described;
  check_sparse(call.DenseDescriptorInit(handle, &made->matrices[2], weight.rows_, tokens, weight.rows_,
                                        kAlignment, kType, CUSPARSE_ORDER_COL));
  ++made->described;
  check_sparse(call.MatmulDescriptorInit(
      handle, &made->matmul, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE,
      &made->matrices[0], &made->matrices[1], &made->matrices[2], &made->matrices[2], CUSPARSE_COMPUTE_32F));
  check_sparse(
      call.MatmulAlgSelectionInit(handle, &made->algorithm, &made->matmul, CUSPARSELT_MATMUL_ALG_DEFAULT));
  return made;
}

StructuredProducts::Algorithm StructuredProducts::search(const Weight& weight, DeviceView x, DeviceView y) {
  check_operands(x, y, weight.rows_, weight.cols_);
  const Functions& call = library_->call;
  const cusparseLtHandle_t* handle = &library_->handle;
  const std::unique_ptr<Plan> made = describe(weight, x.rows);
  check_sparse(call.MatmulPlanInit(handle, &made->plan, &made->matmul, &made->algorithm));
  made->planned = true;
  const float one = 1.0f;
  const float zero = 0.0f;
  cudaStream_t stream = stream_;
  check_sparse(call.MatmulSearch(handle, &made->plan, &one, weight.compressed_.data(), x.data, &zero, y.data,
                                 y.data, nullptr, &stream, 1));
  Algorithm found;
  const auto get = [&](cusparseLtMatmulAlgAttribute_t attribute, int& value) {
    check_sparse(call.MatmulAlgGetAttribute(handle, &made->algorithm, attribute, &value, sizeof value));
  };
  get(CUSPARSELT_MATMUL_ALG_CONFIG_ID, found.id);
  get(CUSPARSELT_MATMUL_SPLIT_K, found.split_k);
  get(CUSPARSELT_MATMUL_SPLIT_K_MODE, found.split_k_mode);
  return found;
}

// Null when the library refuses the algorithm for this shape.
StructuredProducts::Plan* StructuredProducts::plan(const Weight& weight, std::int64_t tokens,
                                                   const Algorithm& algorithm) {
  const Key key{weight.rows_, weight.cols_, tokens, algorithm};
  if (const auto found = plans_.find(key); found != plans_.end()) return found->second.get();
  if (plans_.size() >= kMostPlans) plans_.clear();
  const Functions& call = library_->call;
  const cusparseLtHandle_t* handle = &library_->handle;
  std::unique_ptr<Plan> made = describe(weight, tokens);
  const auto set = [&](cusparseLtMatmulAlgAttribute_t attribute, const int& value) {
    return call.MatmulAlgSetAttribute(handle, &made->algorithm, attribute, &value, sizeof value) ==
           CUSPARSE_STATUS_SUCCESS;
  };
  bool taken = set(CUSPARSELT_MATMUL_ALG_CONFIG_ID, algorithm.id);
  if (algorithm.split_k != 1) {
    taken = taken && set(CUSPARSELT_MATMUL_SPLIT_K, algorithm.split_k);
    if (algorithm.split_k_mode > 0)
      taken = taken && set(CUSPARSELT_MATMUL_SPLIT_K_MODE, algorithm.split_k_mode);
  }
  taken = taken && call.MatmulPlanInit(handle, &made->plan, &made->matmul, &made->algorithm) ==
                       CUSPARSE_STATUS_SUCCESS;
  made->planned = taken;
  auto& slot = plans_[key];
  if (!taken) return nullptr;
  std::size_t bytes = 0;
  check_sparse(call.MatmulGetWorkspace(handle, &made->plan, &bytes));
  made->workspace = DeviceBuffer(memory_, bytes, "workspace of cuSPARSELt");
  slot = std::move(made);
  return slot.get();
}

bool StructuredProducts::linear(const Weight& weight, DeviceView x, DeviceView y,
                                const Algorithm& algorithm) {
  check_operands(x, y, weight.rows_, weight.cols_);
  if (x.rows == 0) return true;
  Plan* const ready = plan(weight, x.rows, algorithm);
  if (ready == nullptr) return false;
  const float one = 1.0f;
  const float zero = 0.0f;
  cudaStream_t stream = stream_;
  check_sparse(library_->call.Matmul(&library_->handle, &ready->plan, &one, weight.compressed_.data(), x.data,
                                     &zero, y.data, y.data, ready->workspace.data(), &stream, 1));
  return true;
}

}  // namespace swiftprune::cuda
