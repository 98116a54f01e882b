// Ranks that write one folder together: the bytes of one writer, each tensor by one of them.
#include "swiftprune/pipeline/shared_writing.h"

#include <fstream>
#include <mutex>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::ThreadRanks;

std::vector<PlannedTensor> planned_tensors(std::int64_t tensors, std::uint64_t max_shard_bytes) {
  std::vector<PlannedTensor> plan;
  for (std::int64_t i = 0; i < tensors; ++i)
    plan.push_back({fmt::format("t{}", i), DType::kF32, {8 + i % 3, 5}, ""});
  assign_shards(plan, max_shard_bytes);
  return plan;
}

std::vector<float> values_of(const PlannedTensor& tensor, std::int64_t number) {
  return std::vector<float>(static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]),
                            static_cast<float>(number + 1));
}

void write_all(CheckpointWriter& writer, const std::vector<PlannedTensor>& plan) {
  for (std::size_t i = 0; i < plan.size(); ++i)
    writer.write(plan[i].name, values_of(plan[i], static_cast<std::int64_t>(i)));
}

void expect_same_files(const fs::path& a, const fs::path& b) {
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(a)) {
    ++files;
    EXPECT_TRUE(test::read_text(entry.path()) == test::read_text(b / entry.path().filename()))
        << entry.path();
  }
  EXPECT_EQ(files,
            static_cast<std::size_t>(std::distance(fs::directory_iterator(b), fs::directory_iterator())));
}

TEST(SharedWriting, GivesTheBytesOfOneWriter) {
  for (const std::uint64_t shard : {std::uint64_t{1} << 30, std::uint64_t{900}}) {
    const test::TempDir dir;
    const std::vector<PlannedTensor> plan = planned_tensors(13, shard);
    {
      CheckpointWriter alone(dir.path() / "one", plan);
      write_all(alone, plan);
      alone.finish();
    }
    for (const int size : {2, 4}) {
      const fs::path out = dir.path() / fmt::format("of{}", size);
      std::mutex mutex;
      std::vector<int> writers(plan.size(), 0);
      ThreadRanks(size).run([&](Communicator& ranks) {
        struct Output {
          CheckpointWriter to;
          CheckpointWriter& writer() { return to; }
        };
        auto [output, writing] = shared_output(ranks, out, [&](const std::string& joined) {
          return std::unique_ptr<Output>(new Output{{out, plan, Leftover::kDiscard, joined}});
        });
        ASSERT_TRUE(writing.is_shared());
        EXPECT_FALSE(writing.share().whole_files);  // one host
        CheckpointWriter& writer = output->writer();
        {
          const std::lock_guard lock(mutex);
          for (std::size_t i = 0; i < plan.size(); ++i) writers[i] += writer.writes(plan[i].name) ? 1 : 0;
        }
        write_all(writer, plan);
        writing.meet(writer);
        if (ranks.is_first()) writer.finish();
      });
      EXPECT_EQ(writers, std::vector<int>(plan.size(), 1));
      expect_same_files(dir.path() / "one", out);
    }
  }
}

TEST(SharedWriting, WholeFilesBelongToOneWriter) {
  const test::TempDir dir;
  const std::vector<PlannedTensor> plan = planned_tensors(13, 900);
  CheckpointWriter writer(dir.path() / "out", plan);
  std::map<std::string, std::set<int>> writers;
  for (int index = 0; index < 2; ++index) {
    writer.share({.index = index, .count = 2, .whole_files = true});
    for (const PlannedTensor& tensor : plan) {
      if (writer.writes(tensor.name)) writers[tensor.file].insert(index);
    }
  }
  std::set<int> all;
  for (const auto& [file, of_file] : writers) {
    EXPECT_EQ(of_file.size(), 1u) << file;
    all.insert(*of_file.begin());
  }
  EXPECT_EQ(all.size(), 2u);
}

// A rank on another host without a disk of both.
TEST(SharedWriting, WithoutOneDiskTheFirstWritesEverything) {
  const test::TempDir dir, elsewhere;
  const std::vector<PlannedTensor> plan = planned_tensors(3, 1 << 30);
  ThreadRanks(2).run([&](Communicator& ranks) {
    const fs::path out = (ranks.is_first() ? dir.path() : elsewhere.path()) / "out";
    std::unique_ptr<CheckpointWriter> writer;
    if (ranks.is_first()) writer = std::make_unique<CheckpointWriter>(out, plan, Leftover::kDiscard);
    SharedWriting writing(ranks, out, writer ? writer->temporary_folder() : "");
    EXPECT_FALSE(writing.is_shared());
    if (!writer) return;
    write_all(*writer, plan);
    writing.meet(*writer);
    writer->finish();
  });
  EXPECT_TRUE(fs::exists(dir.path() / "out" / "model.safetensors"));
  EXPECT_TRUE(fs::is_empty(elsewhere.path()));
}

TEST(SharedWriting, AnotherLayoutIsNotJoined) {
  const test::TempDir dir;
  CheckpointWriter first(dir.path() / "out", planned_tensors(3, 1 << 30), Leftover::kDiscard);
  test::expect_error(ErrorKind::kFailure,
                     [&] {
                       CheckpointWriter(dir.path() / "out", planned_tensors(4, 1 << 30), Leftover::kDiscard,
                                        first.temporary_folder().filename());
                     },
                     {"no folder of this model"});
}

// A block is recorded when every writer has it on the disk.
TEST(SharedWriting, TheJournalWaitsForTheOthers) {
  const test::TempDir dir;
  const auto recorded = [&] {
    std::ifstream file(dir.path() / JournalLines::kFileName);
    std::int64_t lines = 0;
    read_journal_lines(file, [&](const nlohmann::ordered_json&) { return ++lines > 0; });
    return lines;
  };
  JournalLines journal(
      dir.path(), {{"head", 1}}, [] {}, [&] { return PeerJournal::on_disk(dir.path(), 2); });
  journal.add({{"layer", 0}});
  journal.add({{"layer", 1}});
  journal.flush();
  EXPECT_EQ(recorded(), 0);
  std::ofstream(dir.path() / ".written-by-rank-1") << ".";
  journal.flush();
  EXPECT_EQ(recorded(), 1);
  std::ofstream(dir.path() / ".written-by-rank-1") << "...";
  journal.flush();
  EXPECT_EQ(recorded(), 2);
  PeerJournal::remove_all(dir.path());
  EXPECT_FALSE(fs::exists(dir.path() / ".written-by-rank-1"));
}

}  // namespace
}  // namespace swiftprune
