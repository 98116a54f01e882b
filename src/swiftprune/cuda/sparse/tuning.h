// Which form of a packed weight is fastest on this device, found by measuring: one measurement a combination
// of device, shape, kind, density and number of tokens, kept in the file of sparse/timings.h.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/sparse/timings.h"

namespace swiftprune::cuda {

struct FormTimes {
  double packed_us = 0.0;      // few tokens: packed kernels; more: expanded, then dense
  double dense_us = 0.0;       // a dense product alone
  double structured_us = 0.0;  // cuSPARSELt; 0: not measured, or it cannot be used
  StructuredProducts::Algorithm algorithm{};
  double entries_us = 0.0;  // as entries; 0: not measured, or it cannot be

  // By more than two measurements differ.
  static bool is_faster(double us, double other_us) { return us > 0.0 && 1.03 * us < other_us; }
};

class DeviceTuner {
 public:
  // Keeps references to all of them.
  DeviceTuner(Timings& timings, int device, DeviceMemory& memory, Products& products, cudaStream_t stream);
  ~DeviceTuner();

  // Looks up or measures; a few milliseconds the first time, and with `search` about a tenth of a second
  // more where cuSPARSELt takes the weight. The number of tokens is rounded up to a power of
  // two. All times are 0 where memory is too short to measure.
  FormTimes measure(const DevicePacked& weight, std::int64_t tokens, bool search);
  // Grids of few bits stay as they are, whose dense form is four times as large.
  //
  // The weight becomes entries or dense where that is faster for this many tokens of a decode step.
  void choose_few(DevicePacked& weight, std::int64_t tokens);
  // What a product takes in the form that choose_few() takes. Throws Error{kDevice} where memory is too short to measure.
  double few_us(const DevicePacked& weight, std::int64_t tokens);
  // Gives the weight a second form for products of about this many tokens where that is faster and memory is
  // left. repeats: how many such products are to come, which must repay a search.
  void choose_many(DevicePacked& weight, std::int64_t tokens, double repeats);

  static std::string key(const std::string& device, const DevicePacked& weight, std::int64_t tokens);

  // In place of measuring, for tests.
  using Stopwatch = std::function<FormTimes(const DevicePacked&, std::int64_t tokens, bool search)>;
  void set_stopwatch(Stopwatch stopwatch) { stopwatch_ = std::move(stopwatch); }

 private:
  FormTimes time_forms(const DevicePacked& weight, std::int64_t tokens, bool search);
  StructuredProducts* structured();  // opened when it is first needed
  bool has_room(std::int64_t bytes) const;

  Timings& timings_;
  std::string device_;
  DeviceMemory& memory_;
  Products& products_;
  cudaStream_t stream_;
  Stopwatch stopwatch_;
  std::unique_ptr<StructuredProducts> structured_;
};

}  // namespace swiftprune::cuda
