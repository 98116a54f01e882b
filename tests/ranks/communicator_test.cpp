// Shares of work, and what passes between ranks that are threads.
#include "swiftprune/ranks/communicator.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/core/internal_error.h"
#include "swiftprune/ranks/mpi_library.h"

namespace swiftprune {
namespace {

TEST(Communicator, SharesFollowOneAnotherAndDifferByOne) {
  for (const std::int64_t count : {0, 1, 5, 16, 1000}) {
    for (const int size : {1, 2, 3, 7, 20}) {
      std::int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Share share = share_of(count, rank, size);
        EXPECT_EQ(share.first, next);
        EXPECT_GE(share.count, count / size);
        EXPECT_LE(share.count, count / size + 1);
        next += share.count;
      }
      EXPECT_EQ(next, count);
      EXPECT_EQ(share_of(count, 0, size).count > 0, count > 0);
    }
  }
}

TEST(Communicator, TextsComeToAll) {
  test::ThreadRanks(3).run([](Communicator& ranks) {
    for (const std::string text : {"", "a text\n"}) {
      for (int root = 0; root < 3; ++root) {
        std::string mine = ranks.rank() == root ? text : "something else";
        broadcast_text(ranks, root, mine);
        EXPECT_EQ(mine, text);
      }
    }
  });
}

// One sum of floats over all ranks' numbers: in their order, so that no bit depends on how they are shared out.
TEST(Communicator, SumsAreAddedInTheOrderOfTheRanks) {
  const std::vector<float> numbers = {1e8f, 1.0f, -1e8f, 0.5f, 3.0f, 1e-8f, 7.0f, -2.5f};
  float expected = 0.0f;
  for (const float number : numbers) expected += number;
  for (const int size : {1, 2, 3, 8, 11}) {
    test::ThreadRanks(size).run([&](Communicator& ranks) {
      const Share mine = share_of(std::ssize(numbers), ranks.rank(), ranks.size());
      float sum = 0.0f;
      const std::span<std::byte> sums[] = {std::as_writable_bytes(std::span(&sum, 1))};
      add_in_order(ranks, sums, [&] {
        for (std::int64_t i = mine.first; i < mine.first + mine.count; ++i)
          sum += numbers[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(sum, expected);
      std::int64_t counts[] = {mine.count, 1};
      add_counts(ranks, counts);
      EXPECT_EQ(counts[0], std::ssize(numbers));
      EXPECT_EQ(counts[1], size);
    });
  }
}

TEST(Communicator, OneProcessSaysNothing) {
  EXPECT_EQ(alone().size(), 1);
  EXPECT_TRUE(alone().is_first());
  std::string text = "mine";
  broadcast_text(alone(), 0, text);
  EXPECT_EQ(text, "mine");
  std::byte byte{};
  EXPECT_THROW(alone().send(0, {&byte, 1}), InternalError);
}

TEST(MpiLibrary, AMissingOneIsNamedWithAHint) {
  ::setenv("SWIFTPRUNE_MPI_LIBRARY", "/no/libswiftprune_mpi.so", 1);
  test::expect_error(ErrorKind::kDevice, [] { make_mpi_communicator(kRankTimeLimit); },
                     {"--ranks", "/no/libswiftprune_mpi.so", "libopenmpi-dev"});
  const test::TempDir folder;
  const std::string file = (folder.path() / "text.so").string();
  test::write_text(file, "this is no ELF file");
  ::setenv("SWIFTPRUNE_MPI_LIBRARY", file.c_str(), 1);
  test::expect_error(ErrorKind::kDevice, [] { make_mpi_communicator(kRankTimeLimit); }, {"--ranks", file});
  ::unsetenv("SWIFTPRUNE_MPI_LIBRARY");
}

}  // namespace
}  // namespace swiftprune
