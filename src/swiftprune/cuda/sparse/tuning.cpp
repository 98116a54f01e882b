#include "swiftprune/cuda/sparse/tuning.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

namespace swiftprune::cuda {
namespace {

constexpr int kRounds = 7;
constexpr std::uint64_t kFlushBytes = std::uint64_t{128} << 20;  // more than the cache of any GPU holds
constexpr std::int64_t kMostTokens = 4096;                       // larger products differ no more
constexpr double kSearchUs = 100'000.0;                          // of one shape
constexpr double kSearchGain = 0.25;                             // that a search may hope for
constexpr int kSomeBytes = 0x3c;  // as a number of 16 bits it is small and not zero

std::int64_t class_of(std::int64_t tokens) {
  return std::min(kMostTokens, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(tokens))));
}

std::optional<double> number(const Timings::Entry& entry, const char* name, double least) {
  const auto found = entry.find(name);
  if (found == entry.end() || !std::isfinite(found->second) || found->second < least) return std::nullopt;
  return found->second;
}

// What is known of a combination; nothing where the entry is of no use.
std::optional<FormTimes> times_of(const Timings::Entry* entry) {
  if (entry == nullptr) return std::nullopt;
  constexpr double kLeast = 1e-3;
  constexpr double kMostId = 1e6;
  const auto packed = number(*entry, "packed_us", kLeast);
  const auto dense = number(*entry, "dense_us", kLeast);
  if (!packed || !dense) return std::nullopt;
  FormTimes times{.packed_us = *packed, .dense_us = *dense};
  const auto structured = number(*entry, "structured_us", kLeast);
  const auto id = number(*entry, "algorithm", 0.0);
  const auto split_k = number(*entry, "split_k", -1.0);
  const auto mode = number(*entry, "split_k_mode", 0.0);
  if (structured && id && split_k && mode && std::max({*id, *split_k, *mode}) < kMostId) {
    times.structured_us = *structured;
    times.algorithm = {static_cast<int>(*id), static_cast<int>(*split_k), static_cast<int>(*mode)};
  }
  times.entries_us = number(*entry, "entries_us", kLeast).value_or(0.0);
  return times;
}

Timings::Entry entry_of(const FormTimes& times, bool searched) {
  Timings::Entry entry = {{"packed_us", times.packed_us}, {"dense_us", times.dense_us}};
  if (searched) {
    entry["structured_us"] = times.structured_us;
    entry["algorithm"] = times.algorithm.id;
    entry["split_k"] = times.algorithm.split_k;
    entry["split_k_mode"] = times.algorithm.split_k_mode;
  }
  if (times.entries_us > 0.0) entry["entries_us"] = times.entries_us;
  return entry;
}

bool may_be_entries(const DevicePacked& weight, std::int64_t tokens) {
  return tokens <= kMostEntryTokens && weight.can_be_entries();
}

}  // namespace

DeviceTuner::DeviceTuner(Timings& timings, int device, DeviceMemory& memory, Products& products,
                         cudaStream_t stream)
    : timings_(timings),
      device_(gpu_name(device)),
      memory_(memory),
      products_(products),
      stream_(stream),
      stopwatch_([this](const DevicePacked& weight, std::int64_t tokens, bool search) {
        return time_forms(weight, tokens, search);
      }) {}
DeviceTuner::~DeviceTuner() = default;

StructuredProducts* DeviceTuner::structured() {
  if (structured_ == nullptr && StructuredProducts::why_not().empty()) {
    structured_ = std::make_unique<StructuredProducts>(memory_, stream_);
  }
  return structured_.get();
}

bool DeviceTuner::has_room(std::int64_t bytes) const {
  const std::uint64_t reserve = memory_.limit() / 20;  // for workspaces
  return memory_.used() + static_cast<std::uint64_t>(bytes) + reserve <= memory_.limit();
}

std::string DeviceTuner::key(const std::string& device, const DevicePacked& weight, std::int64_t tokens) {
  return fmt::format("{} | {} | {} | {} tokens", device, SWIFTPRUNE_VERSION, weight.description(),
                     class_of(tokens));
}

FormTimes DeviceTuner::measure(const DevicePacked& weight, std::int64_t tokens, bool search) {
  const std::string name = key(device_, weight, tokens);
  const Timings::Entry* entry = timings_.find(name);
  const bool searches = search && weight.can_be_structured() && structured() != nullptr;
  const auto known = times_of(entry);
  const bool lacks_entries = may_be_entries(weight, class_of(tokens)) && known && known->entries_us == 0.0;
  if (known && (!searches || entry->contains("structured_us")) && !lacks_entries) return *known;
  const std::int64_t dense_bytes = 2 * weight.rows() * weight.cols();
  const std::int64_t operands = 2 * class_of(tokens) * (weight.rows() + weight.cols());
  if (!has_room(static_cast<std::int64_t>(kFlushBytes) + 4 * dense_bytes + operands))
    return known.value_or(FormTimes{});
  const FormTimes times = stopwatch_(weight, class_of(tokens), searches);
  timings_.set(name, entry_of(times, searches));
  return times;
}

FormTimes DeviceTuner::time_forms(const DevicePacked& weight, std::int64_t tokens, bool search) {
  const auto bytes = static_cast<std::uint64_t>(2 * weight.rows() * weight.cols());
  const DeviceBuffer flush(memory_, kFlushBytes, "measuring");
  const DeviceBuffer scratch(memory_, bytes, "measuring");
  const DeviceBuffer dense(memory_, bytes, "measuring");
  const DeviceMatrix x(memory_, weight.dtype(), tokens, weight.cols(), "measuring");
  const DeviceMatrix y(memory_, weight.dtype(), tokens, weight.rows(), "measuring");
  weight.expand(dense.data(), stream_);
  check(cudaMemsetAsync(x.view().data, kSomeBytes, static_cast<std::size_t>(2 * x.view().numel()), stream_));
  const DeviceView dense_view = view_of(dense.data(), weight.dtype(), weight.rows(), weight.cols());
  FormTimes times{std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  const auto time = [&](double& best, bool counts, const auto& body) {
    const Event start(true);
    const Event end(true);
    check(cudaMemsetAsync(flush.data(), 0, flush.bytes(), stream_));
    start.record(stream_);
    body();
    end.record(stream_);
    end.synchronize();
    if (counts) best = std::min(best, 1e3 * static_cast<double>(end.ms_since(start)));
  };
  std::optional<DevicePacked> entries;
  if (may_be_entries(weight, tokens)) {
    entries = weight.as_entries(memory_, stream_);
    times.entries_us = std::numeric_limits<double>::infinity();
  }
  StructuredProducts::Weight compressed;
  if (search && tokens % 8 == 0) {
    compressed = structured()->compress(dense_view);
    times.algorithm = structured()->search(compressed, x.view(), y.view());
    times.structured_us = std::numeric_limits<double>::infinity();
  }
  for (int round = 0; round <= kRounds; ++round) {
    time(times.dense_us, round > 0, [&] { products_.linear(x.view(), dense_view, nullptr, y.view()); });
    time(times.packed_us, round > 0, [&] {
      weight.linear(products_, x.view(), nullptr, y.view(), false, {scratch.data(), scratch.bytes()},
                    stream_);
    });
    if (entries) {
      time(times.entries_us, round > 0, [&] {
        entries->linear(products_, x.view(), nullptr, y.view(), false, {scratch.data(), scratch.bytes()},
                        stream_);
      });
    }
    if (times.structured_us == 0.0) continue;
    bool taken = false;
    time(times.structured_us, round > 0,
         [&] { taken = structured()->linear(compressed, x.view(), y.view(), times.algorithm); });
    if (!taken) times.structured_us = 0.0;
  }
  return times;
}

void DeviceTuner::choose_few(DevicePacked& weight, std::int64_t tokens) {
  if (weight.is_dense() || weight.has_grids() || weight.has_entries()) return;
  const FormTimes times = measure(weight, tokens, false);
  const std::int64_t dense_bytes = 2 * weight.rows() * weight.cols();
  if (FormTimes::is_faster(times.entries_us, std::min(times.dense_us, times.packed_us)) &&
      may_be_entries(weight, tokens) && has_room(2 * dense_bytes)) {
    weight = weight.as_entries(memory_, stream_);
  } else if (FormTimes::is_faster(times.dense_us, times.packed_us) && has_room(dense_bytes)) {
    weight.become_dense(memory_, stream_);
  }
}

double DeviceTuner::few_us(const DevicePacked& weight, std::int64_t tokens) {
  const FormTimes times = measure(weight, tokens, false);
  if (times.packed_us == 0.0)
    fail(ErrorKind::kDevice, "{}: its memory is too short to measure products of {}", device_,
         weight.description());
  double us = times.packed_us;
  if (weight.has_grids()) return us;
  if (FormTimes::is_faster(times.dense_us, us)) us = times.dense_us;
  return FormTimes::is_faster(times.entries_us, us) ? times.entries_us : us;
}

void DeviceTuner::choose_many(DevicePacked& weight, std::int64_t tokens, double repeats) {
  if (weight.is_dense() || weight.has_grids() || tokens <= kMaxDecodeTokens) return;
  FormTimes times = measure(weight, tokens, false);
  if (times.structured_us == 0.0 && kSearchGain * times.dense_us * repeats >= kSearchUs)
    times = measure(weight, tokens, true);
  const std::int64_t dense_bytes = 2 * weight.rows() * weight.cols();
  if (FormTimes::is_faster(times.structured_us, std::min(times.dense_us, times.packed_us)) &&
      weight.can_be_structured() && structured() != nullptr && has_room(2 * dense_bytes)) {
    weight.keep_structured(memory_, *structured(), times.algorithm, stream_);
  } else if (FormTimes::is_faster(times.dense_us, times.packed_us) && has_room(dense_bytes)) {
    weight.keep_dense(memory_, stream_);
  }
}

}  // namespace swiftprune::cuda
