// The ranks of a run write one folder together, each a share of its tensors, so that copies to the page cache and the disk's
// work go side by side; the first rank lays it out and writes all that is no tensor. The bytes are those of one writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// How many ranks do not see what the first one writes in a folder, by whichever path each of them has to it: 0 where it
// stands on a disk of all. All ranks call it; the folder is there at the first.
std::int64_t blind_ranks(Communicator& ranks, const std::filesystem::path& folder);

class SharedWriting {
 public:
  // All ranks call it; temporary: that of the first rank's writer for `out`, empty elsewhere. Where another rank does not
  // see that folder (another host, no disk of both) the first writes everything.
  SharedWriting(Communicator& ranks, const std::filesystem::path& out,
                const std::filesystem::path& temporary);

  // Do other ranks write, too?
  bool is_shared() const { return shared_; }
  // What to tell, by the first rank, where others could have written and do not see its folder.
  std::optional<std::string> note(const std::filesystem::path& out) const;
  // With which another rank's CheckpointWriter joins the first's.
  const std::string& temporary() const { return name_; }
  WriterShare share() const;
  // Behind a rank's last tensor: until all others have finish_share() behind them, which another than the first does here.
  void meet(CheckpointWriter& writer);
  // Of JournalLines of the first.
  std::function<std::int64_t()> on_disk(const std::filesystem::path& folder) const;

 private:
  Communicator& ranks_;
  bool shared_ = false;
  bool one_host_ = true;
  std::string name_;
};

// A rank's output to `out`: make(joined) makes one, whose writer() is known; null where the first writes everything.
template <class Make>
auto shared_output(Communicator& ranks, const std::filesystem::path& out, const Make& make)
    -> std::pair<decltype(make("")), SharedWriting> {
  auto output = ranks.is_first() ? make("") : nullptr;
  SharedWriting writing(ranks, out, output ? output->writer().temporary_folder() : "");
  if (writing.is_shared() && !output) output = make(writing.temporary());
  if (writing.is_shared()) output->writer().share(writing.share());
  return {std::move(output), std::move(writing)};
}

}  // namespace swiftprune
