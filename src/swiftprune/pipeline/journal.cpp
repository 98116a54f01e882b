#include "swiftprune/pipeline/journal.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json_numbers.h"

namespace swiftprune {
namespace {

constexpr std::chrono::seconds kInterval{5};
constexpr std::string_view kPeerPrefix = ".written-by-rank-";

nlohmann::ordered_json to_json(const FinishedBlock& block) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const TensorResult& t : block.tensors) {
    nlohmann::ordered_json item = {{"name", t.name},
                                   {"pattern", t.pattern},
                                   {"rows", t.rows},
                                   {"cols", t.cols},
                                   {"asked_sparsity", t.asked_sparsity},
                                   {"sparsity", t.sparsity}};
    if (t.error) item["error"] = *t.error;
    if (t.damping) item["damping"] = *t.damping;
    if (t.lambda) item["lambda"] = *t.lambda;
    if (!t.order.empty()) item["order"] = t.order;
    if (t.low_rank > 0) item["low_rank"] = t.low_rank;
    tensors.push_back(std::move(item));
  }
  nlohmann::ordered_json line = {
      {"layer", block.layer}, {"weights_changed", block.weights_changed}, {"tensors", std::move(tensors)}};
  if (!block.expert_tokens.empty()) line["expert_tokens"] = block.expert_tokens;
  if (!block.reordered.empty()) line["reordered"] = block.reordered;
  return line;
}

FinishedBlock block_of(const nlohmann::ordered_json& line) {
  FinishedBlock block;
  block.layer = whole_number(line.at("layer"));
  block.weights_changed = line.at("weights_changed").get<bool>();
  const auto number = [](const nlohmann::ordered_json& item, const char* key) -> std::optional<double> {
    if (!item.contains(key)) return std::nullopt;
    return item.at(key).get<double>();
  };
  for (const auto& item : line.at("tensors")) {
    block.tensors.push_back({item.at("name").get<std::string>(), item.at("pattern").get<std::string>(),
                             whole_number(item.at("rows")), whole_number(item.at("cols")),
                             item.at("asked_sparsity").get<double>(), item.at("sparsity").get<double>(),
                             number(item, "error"), number(item, "damping"), number(item, "lambda")});
    if (item.contains("order")) block.tensors.back().order = whole_numbers(item.at("order"));
    if (item.contains("low_rank")) block.tensors.back().low_rank = whole_number(item.at("low_rank"));
  }
  if (line.contains("expert_tokens")) block.expert_tokens = whole_numbers(line.at("expert_tokens"));
  if (line.contains("reordered")) block.reordered = line.at("reordered").get<std::vector<std::string>>();
  return block;
}

}  // namespace

JournalLines::JournalLines(const std::filesystem::path& folder, const nlohmann::ordered_json& head,
                           std::function<void()> sync, std::function<std::int64_t()> on_disk)
    : file_(folder / kFileName, std::ios::trunc), sync_(std::move(sync)), on_disk_(std::move(on_disk)) {
  if (!on_disk_) PeerJournal::remove_all(folder);
  append(head.dump() + "\n");
}

JournalLines::JournalLines(const std::filesystem::path& folder, std::function<void()> sync,
                           std::function<std::int64_t()> on_disk)
    : file_(folder / kFileName, std::ios::app), sync_(std::move(sync)), on_disk_(std::move(on_disk)) {
  if (!on_disk_) PeerJournal::remove_all(folder);
  append("\n");  // ends a line that was cut off
}

void JournalLines::add(const nlohmann::ordered_json& line) {
  waiting_.push_back(line.dump() + "\n");
  if (std::chrono::steady_clock::now() - last_ >= kInterval) flush();
}

void JournalLines::flush() {
  last_ = std::chrono::steady_clock::now();
  const std::int64_t all = std::ssize(waiting_);
  const std::int64_t count = on_disk_ ? std::min(all, on_disk_() - num_recorded_) : all;
  if (count <= 0) return;
  sync_();
  std::string lines;
  for (std::int64_t i = 0; i < count; ++i) {
    lines += waiting_.front();
    waiting_.pop_front();
  }
  append(lines);
  num_recorded_ += count;
}

void JournalLines::append(const std::string& lines) {
  file_ << lines << std::flush;
  if (!file_) fail(ErrorKind::kFailure, "{}: cannot be written; is the disk full?", kFileName);
}

namespace {

std::filesystem::path peer_file(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("{}{}", kPeerPrefix, rank);
}

}  // namespace

PeerJournal::PeerJournal(const std::filesystem::path& folder, int rank, std::function<void()> sync)
    : path_(peer_file(folder, rank)), file_(path_, std::ios::trunc), sync_(std::move(sync)) {
  check();
}

void PeerJournal::check() const {
  if (!file_) fail(ErrorKind::kFailure, "{}: cannot be written; is the disk full?", path_.string());
}

// A byte a block.
void PeerJournal::add() {
  waiting_ += '.';
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < kInterval) return;
  sync_();
  file_ << waiting_ << std::flush;
  check();
  waiting_.clear();
  last_ = now;
}

std::int64_t PeerJournal::on_disk(const std::filesystem::path& folder, int size) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (int rank = 1; rank < size; ++rank) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(peer_file(folder, rank), error);
    least = std::min(least, error ? 0 : static_cast<std::int64_t>(bytes));
  }
  return least;
}

void PeerJournal::remove_all(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().starts_with(kPeerPrefix))
      std::filesystem::remove(entry.path(), ignored);
  }
}

void Journal::add(const FinishedBlock& block) { JournalLines::add(to_json(block)); }

std::string journal_text(const UnfinishedRun& run) {
  std::string text = run.head.dump() + "\n";
  for (const FinishedBlock& block : run.blocks) text += to_json(block).dump() + "\n";
  return text;
}

std::optional<UnfinishedRun> read_journal(const std::filesystem::path& folder) {
  std::ifstream file(folder / Journal::kFileName);
  return read_journal(file);
}

std::optional<UnfinishedRun> read_journal(std::istream& file) {
  UnfinishedRun run;
  auto head = read_journal_lines(file, [&](const nlohmann::ordered_json& line) {
    FinishedBlock block = block_of(line);
    // Only an unbroken series from block 0 on can be gone on from.
    if (block.layer != static_cast<std::int64_t>(run.blocks.size())) return false;
    run.blocks.push_back(std::move(block));
    return true;
  });
  if (!head) return std::nullopt;
  run.head = std::move(*head);
  return run;
}

std::optional<nlohmann::ordered_json> read_journal_lines(
    std::istream& text, const std::function<bool(const nlohmann::ordered_json& line)>& take) {
  std::optional<nlohmann::ordered_json> head;
  for (std::string line; std::getline(text, line);) {
    if (line.empty()) continue;
    auto document = nlohmann::ordered_json::parse(line, nullptr, false);
    if (document.is_discarded()) {
      if (!head) return std::nullopt;
      continue;
    }
    if (!head) {
      head = std::move(document);
      continue;
    }
    try {
      if (!take(document)) break;
    } catch (const nlohmann::json::exception&) {
      break;
    }
  }
  return head;
}

}  // namespace swiftprune
