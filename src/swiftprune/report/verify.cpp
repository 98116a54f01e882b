#include "swiftprune/report/verify.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <ranges>
#include <set>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/channel_fold.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/adapter_output.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/report/block_linears.h"
#include "swiftprune/report/prune_record.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kBytesPerChunk = std::int64_t{1} << 20;

std::string_view view_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Gathers what one check finds.
class Checker {
 public:
  explicit Checker(std::string name) : name_(std::move(name)) {}

  void pass() { ++num_passed_; }
  template <class... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    if (num_failed_++ == 0) first_failure_ = fmt::format(format, std::forward<Args>(args)...);
  }
  void skip(std::string reason) { skipped_ = std::move(reason); }

  // what: of what there were so many, for the detail of a passed check.
  VerifyCheck result(std::string_view what) const {
    using Outcome = VerifyCheck::Outcome;
    if (num_failed_ == 1) return {name_, Outcome::kFailed, first_failure_};
    if (num_failed_ > 1) {
      return {name_, Outcome::kFailed, fmt::format("{} (and {} more)", first_failure_, num_failed_ - 1)};
    }
    if (!skipped_.empty()) return {name_, Outcome::kSkipped, skipped_};
    return {name_, Outcome::kPassed, fmt::format("{} {}", num_passed_, what)};
  }

 private:
  std::string name_;
  std::int64_t num_passed_ = 0, num_failed_ = 0;
  std::string first_failure_, skipped_;
};

// Files that make the folder usable and must be those of the parent.
bool is_essential(const std::string& name) {
  constexpr std::array<std::string_view, 8> kNames = {"config.json",
                                                      "generation_config.json",
                                                      "special_tokens_map.json",
                                                      "added_tokens.json",
                                                      "vocab.json",
                                                      "vocab.txt",
                                                      "merges.txt",
                                                      "chat_template.jinja"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() || name.starts_with("tokenizer") ||
         name.ends_with(".model") || name.ends_with(".py");
}

// Kept weights of `pruned` whose bits are not those of `dense`, and the first one's place.
struct Difference {
  std::int64_t count = 0;
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
};

template <class Bits, Bits kMagnitude>
Difference kept_difference(const std::byte* dense, const std::byte* pruned, std::int64_t n) {
  std::atomic<std::int64_t> count = 0, first = std::numeric_limits<std::int64_t>::max();
  parallel_for(n, kBytesPerChunk / static_cast<std::int64_t>(sizeof(Bits)),
               [&](std::int64_t begin, std::int64_t end) {
                 std::int64_t found = 0, found_first = end;
                 for (std::int64_t i = begin; i < end; ++i) {
                   Bits a, b;
                   std::memcpy(&a, dense + i * static_cast<std::int64_t>(sizeof(Bits)), sizeof(Bits));
                   std::memcpy(&b, pruned + i * static_cast<std::int64_t>(sizeof(Bits)), sizeof(Bits));
                   if ((b & kMagnitude) == 0 || a == b) continue;
                   if (found++ == 0) found_first = i;
                 }
                 if (found == 0) return;
                 count += found;
                 for (std::int64_t seen = first;
                      found_first < seen && !first.compare_exchange_weak(seen, found_first);) {
                 }
               });
  return {count, first};
}

// The scan alone answers for the usual groups; for what it cannot tell, check_pattern looks at every weight.
bool surely_holds(const ZeroScan& scan, const Pattern& pattern) {
  if (pattern.kind != Pattern::Kind::kNofM) return false;
  for (std::size_t g = 0; g < scan.max_kept.size(); ++g) {
    if (pattern.m == 2 << g) return scan.cols % pattern.m == 0 && scan.max_kept[g] <= pattern.n;
  }
  return false;
}

class Verifier {
 public:
  Verifier(const fs::path& dense, const fs::path& pruned, const VerifyOptions& options)
      : options_(options), dense_(Checkpoint::open(dense)), pruned_(Checkpoint::open(pruned)) {
    report_.dense = dense;
    report_.pruned = pruned;
    record_ = read_prune_record(pruned);
    report_.has_record = record_.has_value();
    if (options.pattern != "auto") pattern_ = parse_pattern(options.pattern);
    if (record_) {
      for (const RecordedTensor& tensor : record_->tensors) recorded_.emplace(tensor.name, &tensor);
      find_moves();
    } else {
      linears_ = block_linear_names(dense_);
    }
    try {
      dense_parts_.emplace(dense_);
      pruned_parts_.emplace(pruned_);
    } catch (const Error&) {
      // Not a model that swiftprune computes with: its tensors are compared as they are.
      dense_parts_.reset();
    }
  }

  VerifyReport run() {
    check_files();
    check_parent();
    check_record_names();
    const auto total = static_cast<std::int64_t>(dense_.tensors().size());
    std::int64_t done = 0;
    for (const TensorInfo& tensor : dense_.tensors()) {
      check_interrupt();
      const TensorInfo* other = matching(tensor);
      const bool in_parts = dense_parts_ && dense_parts_->holds_parts(tensor.name);
      if (other != nullptr && !in_parts) check_tensor(tensor, *other);
      options_.progress("verify", ++done, total);
    }
    check_parts();
    check_low_rank();
    for (const TensorInfo& tensor : pruned_.tensors()) {
      if (dense_.find(tensor.name) == nullptr) tensors_.fail("{}: not in the dense model", tensor.name);
    }
    finish();
    return std::move(report_);
  }

 private:
  // Rows or columns that stand elsewhere in the pruned model: of linear number `linear` of its block, or its bias.
  struct Move {
    ChannelFold fold;
    std::vector<std::int64_t> channels;
    std::size_t linear = 0;
    std::int64_t inputs = 0;
  };

  // Where the record has orders of channels: what stands elsewhere in the pruned model.
  void find_moves() {
    const auto has_order = [](const RecordedTensor& tensor) { return !tensor.order.empty(); };
    if (std::none_of(record_->tensors.begin(), record_->tensors.end(), has_order)) return;
    const ModelConfig model = model_config(dense_.config());
    for (const BlockConfig& block : model.blocks) {
      const std::vector<LinearTensors> linears = linears_of(block);
      for (const LinearInput output : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
        const auto fold = channel_fold(model, block, output);
        const auto found = fold ? recorded_.find(linears[fold->linear].name + ".weight") : recorded_.end();
        if (found == recorded_.end() || found->second->order.empty()) continue;
        const std::vector<std::int64_t>& order = found->second->order;
        if (!fits(*fold, order)) {
          record_check_.fail("{}: found a channel_order that its inputs cannot take", found->first);
          continue;
        }
        for (std::size_t i = 0; i < linears.size(); ++i) {
          if (i != fold->linear && !fold->moves_rows_of(i)) continue;
          for (const char* part : {".weight", ".bias"})
            moves_[linears[i].name + part].push_back({*fold, fold->of_channels(order), i, linears[i].inputs});
        }
      }
    }
  }

  // The dense tensor as the record says that the pruned model has it.
  template <class Bits>
  void move(const std::vector<Move>& moves, bool is_bias, std::vector<std::byte>& bytes) const {
    std::vector<Bits> values(bytes.size() / sizeof(Bits));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    for (const Move& move : moves) {
      reorder_linear<Bits>(move.fold, move.channels, move.linear, move.inputs,
                           is_bias ? std::span<Bits>() : std::span(values),
                           is_bias ? std::span(values) : std::span<Bits>());
    }
    std::memcpy(bytes.data(), values.data(), bytes.size());
  }

  void check_files() {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(dense_.folder(), ignored)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file(ignored) || !is_essential(name)) continue;
      if (!fs::exists(pruned_.folder() / name, ignored)) {
        files_.fail("{}: missing", name);
      } else if (const MappedFile a(entry.path()), b(pruned_.folder() / name);
                 view_of(a.bytes()) != view_of(b.bytes())) {
        files_.fail("{}: differs from the dense model's", name);
      } else {
        files_.pass();
      }
    }
  }

  // The dense model is the one that was pruned, or one that this came from.
  void check_parent() {
    if (!record_ || record_->inputs.empty()) return parent_.skip("the record names no files");
    std::map<std::string, std::string> found;
    const nlohmann::ordered_json hashes = model_hashes(dense_);
    for (const auto& [file, hash] : hashes.items()) found.emplace(file, hash.get<std::string>());
    const auto has_names_of_found = [&](const auto& input) {
      return std::ranges::equal(input, found, {}, &std::pair<const std::string, std::string>::first,
                                &std::pair<const std::string, std::string>::first);
    };
    if (std::ranges::none_of(record_->inputs, has_names_of_found)) {
      return parent_.skip(fmt::format("it was made of files of other names ({})",
                                      fmt::join(std::views::keys(record_->inputs.front()), ", ")));
    }
    if (std::ranges::find(record_->inputs, found) != record_->inputs.end()) {
      for (std::size_t i = 0; i < found.size(); ++i) parent_.pass();
      return;
    }
    const auto nearest = std::ranges::find_if(record_->inputs, has_names_of_found);
    for (const auto& [file, hash] : found) {
      if (nearest->at(file) != hash)
        parent_.fail("{}: is not the file that was pruned, by the record's hash of it", file);
    }
  }

  void check_record_names() {
    for (const auto& [name, tensor] : recorded_) {
      const bool is_part = pruned_parts_ && pruned_parts_->part(name) != nullptr;
      if (pruned_.find(name) == nullptr && !is_part)
        record_check_.fail("{}: named by the record, but not there", name);
    }
  }

  // The pruned model's tensor of that name, when it has the same shape, dtype and file.
  const TensorInfo* matching(const TensorInfo& tensor) {
    const TensorInfo* other = pruned_.find(tensor.name);
    if (other == nullptr) {
      tensors_.fail("{}: missing", tensor.name);
    } else if (other->shape != tensor.shape) {
      tensors_.fail("{}: found shape [{}], expected [{}]", tensor.name, fmt::join(other->shape, ", "),
                    fmt::join(tensor.shape, ", "));
    } else if (other->dtype != tensor.dtype) {
      tensors_.fail("{}: found dtype {}, expected {}", tensor.name, name_of(other->dtype),
                    name_of(tensor.dtype));
    } else if (other->file != safetensors_name(tensor.file)) {
      tensors_.fail("{}: found in {}, expected in {}", tensor.name, other->file,
                    safetensors_name(tensor.file));
    } else {
      tensors_.pass();
      return other;
    }
    return nullptr;
  }

  // The adapter that the record tells of: it can be read, and each part has the rank that stands there.
  void check_low_rank() {
    if (!record_ || !record_->has_low_rank()) return;
    try {
      const auto adapter = Adapter::open(pruned_.folder() / kAdapterFolder, model_config(pruned_.config()));
      std::int64_t recorded = 0;
      for (const RecordedTensor& tensor : record_->tensors) {
        check_interrupt();
        if (tensor.low_rank == 0) continue;
        ++recorded;
        const std::string linear = linear_of(tensor.name);
        const std::int64_t rank = adapter->rank_of(linear);
        if (rank != tensor.low_rank) {
          low_rank_.fail("{}: found rank {} in the adapter, but the record says {}", tensor.name, rank,
                         tensor.low_rank);
        } else if (adapter->load(linear)) {  // finite, or it throws
          low_rank_.pass();
        }
      }
      if (adapter->num_linears() > recorded)
        low_rank_.fail("{}: found parts of {} linears, but the record says {}", kAdapterFile,
                       adapter->num_linears(), recorded);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadInput) throw;
      low_rank_.fail("{}", error.what());
    }
  }

  // What is compared: a tensor, or an expert's part of one.
  struct Pair {
    const std::string& name;
    std::span<const std::byte> dense, pruned;
    DType dtype;
    std::vector<std::int64_t> shape;
  };

  void check_tensor(const TensorInfo& dense, const TensorInfo& pruned) {
    std::span<const std::byte> before = dense_.bytes(dense);
    std::vector<std::byte> moved;
    if (const auto moves = moves_.find(dense.name); moves != moves_.end()) {
      moved.assign(before.begin(), before.end());
      const bool is_bias = dense.shape.size() == 1;
      size_of(dense.dtype) == 4 ? move<std::uint32_t>(moves->second, is_bias, moved)
                                : move<std::uint16_t>(moves->second, is_bias, moved);
      before = moved;
    }
    check_pair({dense.name, before, pruned_.bytes(pruned), dense.dtype, dense.shape});
    dense_.release(dense);
    pruned_.release(pruned);
  }

  // The weights of experts that one tensor holds, each as if it had one of its own.
  void check_parts() {
    if (!dense_parts_) return;
    for (const std::string& name : dense_parts_->part_names()) {
      check_interrupt();
      if (pruned_parts_->part(name) == nullptr) {
        tensors_.fail("{}: missing", name);
        continue;
      }
      const StoredWeights::Info info = dense_parts_->info(name), other = pruned_parts_->info(name);
      if (info.rows != other.rows || info.cols != other.cols || info.dtype != other.dtype)
        continue;  // said above
      const std::vector<std::byte> dense = dense_parts_->bytes(name), pruned = pruned_parts_->bytes(name);
      check_pair({name, dense, pruned, info.dtype, {info.rows, info.cols}});
      dense_parts_->release(name);
      pruned_parts_->release(name);
    }
  }

  void check_pair(const Pair& pair) {
    const auto recorded = recorded_.find(pair.name);
    const bool is_recorded = recorded != recorded_.end();
    const bool is_equal = !is_recorded && view_of(pair.dense) == view_of(pair.pruned);
    const bool is_matrix = pair.shape.size() == 2 && is_weight_dtype(pair.dtype);
    // Without a record the linears of the blocks may be pruned; with --pattern all of them must be.
    const bool is_linear = !record_ && linears_.contains(pair.name) && is_matrix;
    if (is_recorded && !is_matrix) {
      record_check_.fail("{}: found {} [{}], expected a weight matrix", pair.name, name_of(pair.dtype),
                         fmt::join(pair.shape, ", "));
    } else if (is_recorded) {
      check_pruned(pair, recorded->second);
    } else if (is_linear && (!is_equal || pattern_)) {
      check_pruned(pair, nullptr);
    } else if (is_equal) {
      untouched_.pass();
    } else {
      untouched_.fail("{}: differs, although it is not pruned", pair.name);
    }
  }

  void check_pruned(const Pair& pair, const RecordedTensor* recorded) {
    const std::int64_t rows = pair.shape[0], cols = pair.shape[1];
    const WeightView weight{pair.pruned.data(), pair.dtype, rows, cols, cols};
    const ZeroScan scan = scan_zeros(weight);
    ++report_.num_tensors;
    report_.num_weights += scan.numel();
    report_.num_zeros += scan.num_zeros;
    if (scan.num_not_finite > 0) {
      finite_.fail("{}: found {} NaN or infinite weights", pair.name, scan.num_not_finite);
    } else {
      finite_.pass();
    }
    if (scan.num_negative_zeros > 0) {
      zeros_.fail("{}: found {} negative zeros", pair.name, scan.num_negative_zeros);
    } else {
      zeros_.pass();
    }
    check_shape(weight, scan, pair.name,
                pattern_   ? pattern_
                : recorded ? std::optional(recorded->pattern)
                           : std::nullopt);
    check_kept(pair);
    if (recorded != nullptr) check_recorded(*recorded, scan);
  }

  void check_shape(const WeightView& weight, const ZeroScan& scan, const std::string& name,
                   const std::optional<Pattern>& pattern) {
    if (!pattern) {
      const auto found = find_pattern(scan);
      ++found_patterns_[found ? format(*found) : "unstructured"];
      if (scan.num_zeros == 0) {
        pattern_check_.fail("{}: found no zeros", name);
      } else {
        pattern_check_.pass();
      }
      return;
    }
    ++found_patterns_[format(*pattern)];
    if (surely_holds(scan, *pattern)) return pattern_check_.pass();
    const PatternCheck check = check_pattern(weight, *pattern);
    if (check.holds) return pattern_check_.pass();
    pattern_check_.fail("{}: row {}, columns from {}: not {}", name, *check.bad_row, *check.bad_column,
                        format(*pattern));
  }

  void check_kept(const Pair& pair) {
    const std::byte* a = pair.dense.data();
    const std::byte* b = pair.pruned.data();
    const std::int64_t cols = pair.shape[1], numel = pair.shape[0] * cols;
    const Difference difference = size_of(pair.dtype) == 4
                                      ? kept_difference<std::uint32_t, 0x7fffffffu>(a, b, numel)
                                      : kept_difference<std::uint16_t, 0x7fff>(a, b, numel);
    report_.num_changed += difference.count;
    if (difference.count == 0) return kept_.pass();
    kept_.fail("{}: row {}, column {}: a kept weight is not the dense one ({} such)", pair.name,
               difference.first / cols, difference.first % cols, difference.count);
  }

  void check_recorded(const RecordedTensor& recorded, const ZeroScan& scan) {
    const double found = scan.sparsity();
    if (recorded.rows != scan.rows || recorded.cols != scan.cols) {
      record_check_.fail("{}: found [{}, {}], but the record says [{}, {}]", recorded.name, scan.rows,
                         scan.cols, recorded.rows, recorded.cols);
    } else if (recorded.sparsity && std::abs(*recorded.sparsity - found) > 1e-9) {
      record_check_.fail("{}: found sparsity {}, but the record says {}", recorded.name, found,
                         *recorded.sparsity);
    } else {
      record_check_.pass();
    }
  }

  void finish() {
    const bool promised = (record_ && !record_->weights_changed) || options_.weights_unchanged;
    if (!record_) record_check_.skip("no swiftprune.json");
    std::string patterns;
    for (const auto& [pattern, count] : found_patterns_) {
      patterns += fmt::format("{}{} {}", patterns.empty() ? "" : ", ", count, pattern);
    }
    report_.checks = {parent_.result("files as they were pruned"),
                      files_.result("files equal"),
                      tensors_.result("tensors with the same shape, dtype and file"),
                      untouched_.result("tensors bit-equal"),
                      finite_.result("tensors"),
                      zeros_.result("tensors with +0 only")};
    VerifyCheck pattern = pattern_check_.result("tensors");
    if (pattern.outcome == VerifyCheck::Outcome::kPassed)
      pattern.detail = patterns.empty() ? "nothing pruned" : patterns;
    report_.checks.push_back(pattern);
    VerifyCheck kept = kept_.result("tensors with kept weights bit-equal");
    if (!promised) {
      kept.outcome = VerifyCheck::Outcome::kSkipped;
      kept.detail = fmt::format("not promised; {} kept weights changed", report_.num_changed);
    }
    report_.checks.push_back(kept);
    report_.checks.push_back(record_check_.result("tensors as recorded"));
    if (record_ && record_->has_low_rank())
      report_.checks.push_back(low_rank_.result("low-rank parts of the recorded ranks"));
    if (report_.num_tensors == 0) {
      report_.checks.push_back(
          {"pruned", VerifyCheck::Outcome::kFailed, "no tensor differs from the dense model's"});
    }
  }

  VerifyOptions options_;
  Checkpoint dense_, pruned_;
  std::optional<StoredWeights> dense_parts_, pruned_parts_;  // of models that swiftprune computes with
  VerifyReport report_;
  std::optional<PruneRecord> record_;
  std::optional<Pattern> pattern_;  // --pattern
  std::map<std::string, const RecordedTensor*, std::less<>> recorded_;
  std::map<std::string, std::vector<Move>, std::less<>> moves_;  // by tensor
  std::set<std::string> linears_;                                // without a record
  std::map<std::string, std::int64_t> found_patterns_;
  Checker parent_{"parent"}, files_{"files"}, tensors_{"tensors"}, untouched_{"untouched"}, finite_{"finite"},
      zeros_{"zeros"}, pattern_check_{"pattern"}, kept_{"kept weights"}, record_check_{"record"},
      low_rank_{"low rank"};
};

}  // namespace

std::string_view name_of(VerifyCheck::Outcome outcome) {
  using Outcome = VerifyCheck::Outcome;
  return outcome == Outcome::kPassed ? "passed" : outcome == Outcome::kFailed ? "FAILED" : "skipped";
}

const VerifyCheck* VerifyReport::first_failure() const {
  const auto failed = std::find_if(checks.begin(), checks.end(), [](const VerifyCheck& check) {
    return check.outcome == VerifyCheck::Outcome::kFailed;
  });
  return failed == checks.end() ? nullptr : &*failed;
}

VerifyReport verify_pruned(const fs::path& dense, const fs::path& pruned, const VerifyOptions& options) {
  return Verifier(dense, pruned, options).run();
}

nlohmann::ordered_json to_json(const VerifyReport& report) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const VerifyCheck& check : report.checks) {
    checks.push_back({{"check", check.name}, {"outcome", name_of(check.outcome)}, {"detail", check.detail}});
  }
  const double weights = static_cast<double>(report.num_weights);
  return {{"passed", report.first_failure() == nullptr},
          {"dense", report.dense.string()},
          {"pruned", report.pruned.string()},
          {"record", report.has_record},
          {"checks", checks},
          {"pruned_tensors", report.num_tensors},
          {"weights", report.num_weights},
          {"zeros", report.num_zeros},
          {"sparsity", weights > 0.0 ? static_cast<double>(report.num_zeros) / weights : 0.0},
          {"kept_weights_changed", report.num_changed}};
}

}  // namespace swiftprune
