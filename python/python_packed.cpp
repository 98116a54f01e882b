#include "python_packed.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/device/device.h"
#include "swiftprune/device/packed_product.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace nb = nanobind;

namespace swiftprune::python {
namespace {

using Bytes = nb::ndarray<nb::pytorch, std::uint8_t, nb::ndim<1>>;

// A torch tensor's elements in memory: its address, and its element type by safetensors' name.
struct Elements {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;

  Elements(std::uintptr_t address, const std::string& type) : data(reinterpret_cast<std::byte*>(address)) {
    const auto known = dtype_from_name(type);
    if (!known || !is_weight_dtype(*known)) bad_usage("dtype: found {}, expected F32, F16 or BF16", type);
    dtype = *known;
  }
  std::span<std::byte> bytes(std::int64_t count) const {
    return {data, static_cast<std::size_t>(count * size_of(dtype))};
  }
};

// A packed weight in a torch tensor's memory, which must be there while it is used.
class PackedWeight {
 public:
  PackedWeight(std::uintptr_t address, std::int64_t num_bytes, const std::string& name)
      : linear_(PackedTensor::parse(
            {reinterpret_cast<const std::byte*>(address), static_cast<std::size_t>(num_bytes)}, name,
            nullptr)) {
    std::memcpy(header_.data(), linear_.weight().bytes().data(), header_.size());
  }

  std::int64_t rows() const { return linear_.out_features(); }
  std::int64_t cols() const { return linear_.in_features(); }
  std::string description() const { return describe(linear_.weight().shape()); }
  // Whether that memory, which must be there, holds the same weight still.
  bool matches(std::int64_t num_bytes) const {
    const std::span<const std::byte> bytes = linear_.weight().bytes();
    return num_bytes == std::ssize(bytes) && std::memcmp(bytes.data(), header_.data(), header_.size()) == 0;
  }

  // x [tokens, cols] -> y [tokens, rows], both contiguous and of `type`; bias: F32 [rows] at an address, or 0.
  void multiply(std::uintptr_t x, std::uintptr_t bias, std::uintptr_t y, std::int64_t tokens,
                const std::string& type, bool bf16_products, int threads) const {
    const Elements in(x, type), out(y, type);
    const RunScope scope({.threads = threads});
    const std::span<const float> added(reinterpret_cast<const float*>(bias),
                                       bias == 0 ? 0 : static_cast<std::size_t>(rows()));
    const ComputeType compute = bf16_products ? ComputeType::kBF16 : ComputeType::kF32;
    if (in.dtype == DType::kF32) {
      linear_.forward({reinterpret_cast<const float*>(in.data), tokens, cols(), cols()}, added,
                      {reinterpret_cast<float*>(out.data), tokens, rows(), rows()}, compute);
      return;
    }
    Matrix wide(tokens, cols()), sums(tokens, rows());
    convert_to_f32(in.bytes(wide.numel()), in.dtype, wide.values());
    linear_.forward(wide.view(), added, sums.view(), compute);
    convert_from_f32(sums.values(), out.dtype, out.bytes(sums.numel()));
  }

  // The rows of ids [count] of a table of few bits -> out [count, cols].
  void look_up(std::uintptr_t ids, std::int64_t count, std::uintptr_t out, const std::string& type) const {
    const Elements target(out, type);
    const auto* id = reinterpret_cast<const std::int64_t*>(ids);
    if (!is_grid(linear_.weight().kind()))
      bad_input("found a table packed as {}, expected int8 or int4", description());
    std::vector<float> row(static_cast<std::size_t>(cols()));
    for (std::int64_t i = 0; i < count; ++i) {
      if (id[i] < 0 || id[i] >= rows()) bad_input("input_ids: found {}, expected 0 to {}", id[i], rows() - 1);
      unpack_row(linear_.weight(), id[i], row);
      const std::int64_t row_bytes = cols() * size_of(target.dtype);
      convert_from_f32(row, target.dtype, {target.data + i * row_bytes, static_cast<std::size_t>(row_bytes)});
    }
  }

  // The weights [rows, cols] that products use -> out, F32.
  void unpack(std::uintptr_t out) const {
    const Matrix values = unpack_f32(linear_.weight());
    std::copy_n(values.data(), values.numel(), reinterpret_cast<float*>(out));
  }

 private:
  Linear linear_;
  std::array<std::byte, 64> header_;  // as it was read; it has a checksum of all bytes
};

// A packed weight in a GPU's memory; addresses are of that memory, stream is torch's.
class GpuWeight {
 public:
  GpuWeight(std::uintptr_t address, std::int64_t num_bytes, int gpu, const std::string& grid_type) {
    const auto bytes =
        std::span(reinterpret_cast<const std::byte*>(address), static_cast<std::size_t>(num_bytes));
    const Elements grid(0, grid_type);
    product_ = make_packed_product(PackedTensor::parse(bytes, "packed weight", nullptr), gpu, grid.dtype);
  }

  // Of x, by safetensors' name.
  std::string type() const { return std::string(name_of(product_->dtype())); }
  std::uint64_t num_bytes() const { return product_->bytes(); }
  void multiply(std::uintptr_t x, std::uintptr_t bias, std::uintptr_t y, std::int64_t tokens,
                const std::string& y_type, std::uintptr_t stream) const {
    product_->multiply(reinterpret_cast<const void*>(x), tokens, reinterpret_cast<const void*>(bias),
                       reinterpret_cast<void*>(y), Elements(y, y_type).dtype,
                       reinterpret_cast<void*>(stream));
  }

 private:
  std::unique_ptr<PackedProduct> product_;
};

// A model folder's tensors, in its mapped files.
class Folder {
 public:
  explicit Folder(const std::string& model) {
    const LocatedModel located = locate_model(model);
    if (located.gguf) bad_input("{}: found a GGUF file, expected a packed folder", model);
    checkpoint_ = std::make_shared<const Checkpoint>(Checkpoint::open(located.folder));
    if (!has_packed_tensors(*checkpoint_)) {
      bad_input(
          "{}: found no packed weights; swiftprune pack makes a packed folder, and transformers reads this "
          "one",
          model);
    }
  }

  std::string path() const { return checkpoint_->folder().string(); }
  const std::vector<std::string>& notes() const { return checkpoint_->notes(); }

  struct Info {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    bool transposed = false;  // transformers has [shape[1], shape[0]]
  };
  std::vector<Info> tensors() const {
    std::vector<Info> result;
    for (const TensorInfo& t : checkpoint_->tensors())
      result.push_back({t.name, std::string(name_of(t.dtype)), t.shape, t.transposed});
    return result;
  }
  // Mapped for reading only, as long as the array lives.
  Bytes bytes(const std::string& name) const {
    const auto bytes = checkpoint_->bytes(checkpoint_->at(name));
    return view(const_cast<std::byte*>(bytes.data()), bytes.size(), checkpoint_);
  }
  // Its pages, or its converted copy, are not needed any more.
  void release(const std::string& name) const { checkpoint_->release(checkpoint_->at(name)); }
  // A table or linear of 16 bits in the kernels' order; None for other dtypes.
  std::optional<Bytes> packed_copy(const std::string& name) const {
    auto packed = pack_dense(*checkpoint_, name);
    if (!packed) return std::nullopt;
    auto owner = std::make_shared<const PackedTensor>(*packed);
    const std::span<const std::byte> bytes = owner->bytes();
    return view(const_cast<std::byte*>(bytes.data()), bytes.size(), std::move(owner));
  }

 private:
  static Bytes view(std::byte* data, std::size_t size, std::shared_ptr<const void> owner) {
    auto* kept = new std::shared_ptr<const void>(std::move(owner));
    const nb::capsule capsule(kept,
                              [](void* p) noexcept { delete static_cast<std::shared_ptr<const void>*>(p); });
    return Bytes(data, {size}, capsule);
  }
  std::shared_ptr<const Checkpoint> checkpoint_;
};

}  // namespace

void add_packed(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  module.def("multiplies_bf16_fast",
             [] { return open_device("cpu")->default_compute() == ComputeType::kBF16; });
  nb::class_<PackedWeight>(module, "PackedWeight")
      .def(nb::init<std::uintptr_t, std::int64_t, const std::string&>(), nb::arg("address"),
           nb::arg("num_bytes"), nb::arg("name"), Release())
      .def_prop_ro("rows", &PackedWeight::rows)
      .def_prop_ro("cols", &PackedWeight::cols)
      .def_prop_ro("description", &PackedWeight::description)
      .def("matches", &PackedWeight::matches, nb::arg("num_bytes"))
      .def("multiply", &PackedWeight::multiply, nb::arg("x"), nb::arg("bias"), nb::arg("y"),
           nb::arg("tokens"), nb::arg("dtype"), nb::arg("bf16_products"), nb::arg("threads"), Release())
      .def("look_up", &PackedWeight::look_up, nb::arg("ids"), nb::arg("count"), nb::arg("out"),
           nb::arg("dtype"), Release())
      .def("unpack", &PackedWeight::unpack, nb::arg("out"), Release());
  nb::class_<GpuWeight>(module, "GpuWeight")
      .def(nb::init<std::uintptr_t, std::int64_t, int, const std::string&>(), nb::arg("address"),
           nb::arg("num_bytes"), nb::arg("gpu"), nb::arg("grid_dtype"), Release())
      .def_prop_ro("dtype", &GpuWeight::type)
      .def_prop_ro("num_bytes", &GpuWeight::num_bytes)
      .def("multiply", &GpuWeight::multiply, nb::arg("x"), nb::arg("bias"), nb::arg("y"), nb::arg("tokens"),
           nb::arg("dtype"), nb::arg("stream"), Release());
  nb::class_<Folder::Info>(module, "TensorInfo")
      .def_ro("name", &Folder::Info::name)
      .def_ro("dtype", &Folder::Info::dtype)
      .def_ro("shape", &Folder::Info::shape)
      .def_ro("transposed", &Folder::Info::transposed);
  nb::class_<Folder>(module, "PackedFolder")
      .def(nb::init<const std::string&>(), nb::arg("model"), Release())
      .def_prop_ro("path", &Folder::path)
      .def_prop_ro("notes", &Folder::notes)
      .def("tensors", &Folder::tensors)
      .def("bytes", &Folder::bytes, nb::arg("name"))
      .def("release", &Folder::release, nb::arg("name"))
      .def("packed_copy", &Folder::packed_copy, nb::arg("name"));
}

}  // namespace swiftprune::python
