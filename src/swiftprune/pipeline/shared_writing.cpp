#include "swiftprune/pipeline/shared_writing.h"

#include <fstream>
#include <random>

#include <fmt/format.h>

#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSeenFile = ".seen-by-ranks";

// Of this boot of this host.
std::string host_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

std::string nonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

std::string content_of(const fs::path& file) {
  std::string text;
  std::ifstream(file) >> text;
  return text;
}

}  // namespace

std::int64_t blind_ranks(Communicator& ranks, const fs::path& folder) {
  if (ranks.size() == 1) return 0;
  std::string written;
  if (ranks.is_first()) {
    written = nonce();
    write_whole(folder / kSeenFile, written);
  }
  broadcast_text(ranks, 0, written);
  std::int64_t blind = content_of(folder / kSeenFile) == written ? 0 : 1;
  add_counts(ranks, std::span(&blind, 1));
  if (ranks.is_first()) fs::remove(folder / kSeenFile);
  return blind;
}

SharedWriting::SharedWriting(Communicator& ranks, const fs::path& out, const fs::path& temporary)
    : ranks_(ranks) {
  if (ranks.size() == 1) return;
  if (ranks.is_first()) {
    name_ = temporary.filename().string();
    PeerJournal::remove_all(temporary);
  }
  const std::string own_host = host_id();
  std::string host = own_host;
  for (std::string* text : {&name_, &host}) broadcast_text(ranks, 0, *text);
  shared_ = blind_ranks(ranks, partial_folder(out).parent_path() / name_) == 0;
  std::int64_t elsewhere = host == own_host && !host.empty() ? 0 : 1;
  add_counts(ranks, std::span(&elsewhere, 1));
  one_host_ = elsewhere == 0;
}

std::optional<std::string> SharedWriting::note(const fs::path& out) const {
  if (shared_ || ranks_.size() == 1 || !ranks_.is_first()) return std::nullopt;
  return fmt::format("{}: not all ranks see this folder, so the first one writes everything", out.string());
}

WriterShare SharedWriting::share() const { return {ranks_.rank(), ranks_.size(), !one_host_}; }

std::function<std::int64_t()> SharedWriting::on_disk(const fs::path& folder) const {
  if (!shared_) return {};
  return [folder, size = ranks_.size()] { return PeerJournal::on_disk(folder, size); };
}

void SharedWriting::meet(CheckpointWriter& writer) {
  if (!shared_) return;
  std::byte done{1};
  if (!ranks_.is_first()) {
    writer.finish_share();
    ranks_.send(0, std::span(&done, 1));
    return ranks_.finish_sends();
  }
  for (int rank = 1; rank < ranks_.size(); ++rank) ranks_.receive(rank, std::span(&done, 1));
  PeerJournal::remove_all(writer.temporary_folder());
}

}  // namespace swiftprune
