#include "swiftprune/pipeline/journal.h"

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::chrono::seconds kInterval{5};

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
  block.layer = line.at("layer").get<std::int64_t>();
  block.weights_changed = line.at("weights_changed").get<bool>();
  const auto number = [](const nlohmann::ordered_json& item, const char* key) -> std::optional<double> {
    if (!item.contains(key)) return std::nullopt;
    return item.at(key).get<double>();
  };
  for (const auto& item : line.at("tensors")) {
    block.tensors.push_back({item.at("name").get<std::string>(), item.at("pattern").get<std::string>(),
                             item.at("rows").get<std::int64_t>(), item.at("cols").get<std::int64_t>(),
                             item.at("asked_sparsity").get<double>(), item.at("sparsity").get<double>(),
                             number(item, "error"), number(item, "damping"), number(item, "lambda")});
    if (item.contains("order"))
      block.tensors.back().order = item.at("order").get<std::vector<std::int64_t>>();
    if (item.contains("low_rank")) block.tensors.back().low_rank = item.at("low_rank").get<std::int64_t>();
  }
  if (line.contains("expert_tokens"))
    block.expert_tokens = line.at("expert_tokens").get<std::vector<std::int64_t>>();
  if (line.contains("reordered")) block.reordered = line.at("reordered").get<std::vector<std::string>>();
  return block;
}

}  // namespace

JournalLines::JournalLines(const std::filesystem::path& folder, const nlohmann::ordered_json& head,
                           std::function<void()> sync)
    : file_(folder / kFileName, std::ios::trunc), sync_(std::move(sync)) {
  append(head.dump() + "\n");
}

JournalLines::JournalLines(const std::filesystem::path& folder, std::function<void()> sync)
    : file_(folder / kFileName, std::ios::app), sync_(std::move(sync)) {
  append("\n");  // ends a line that was cut off
}

void JournalLines::add(const nlohmann::ordered_json& line) {
  waiting_ += line.dump() + "\n";
  if (std::chrono::steady_clock::now() - last_ >= kInterval) flush();
}

void JournalLines::flush() {
  if (waiting_.empty()) return;
  sync_();
  append(waiting_);
  waiting_.clear();
  last_ = std::chrono::steady_clock::now();
}

void JournalLines::append(const std::string& lines) {
  file_ << lines << std::flush;
  if (!file_) fail(ErrorKind::kFailure, "{}: cannot be written; is the disk full?", kFileName);
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
