// Ranks with GPUs that prune together write what one GPU writes, byte for byte: threads that share one GPU here, whose
// link goes through the host, in place of NCCL's processes.
#include <vector>

#include "cuda/gpu.h"
#include "pipeline/rank_runs.h"
#include "support/gpu_models.h"
#include "support/temp_dir.h"
#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/device/device.h"
#include "swiftprune/ranks/device_link.h"
#include "swiftprune/tune/tune.h"

namespace swiftprune {
namespace {

using test::golden_hash;
using test::GoldenRecipe;
using test::kModels;
using test::ThreadRanks;

class HostLink final : public DeviceLink {
 public:
  explicit HostLink(Communicator& ranks) : ranks_(ranks) {}

  void send(int to, const void* data, std::uint64_t bytes, Stream stream) override {
    const std::vector<std::byte> host = fetch(data, bytes, stream);
    ranks_.send(to, host);
    ranks_.finish_sends();
  }
  void receive(int from, void* data, std::uint64_t bytes, Stream stream) override {
    std::vector<std::byte> host(bytes);
    ranks_.receive(from, host);
    put(host, data, stream);
  }
  void broadcast(int root, void* data, std::uint64_t bytes, Stream stream) override {
    std::vector<std::byte> host = fetch(data, bytes, stream);
    ranks_.broadcast(root, host);
    put(host, data, stream);
  }
  void sum(void* values, std::int64_t count, Stream stream) override {
    const std::uint64_t bytes = static_cast<std::uint64_t>(count) * sizeof(std::uint64_t);
    const std::vector<std::byte> own = fetch(values, bytes, stream);
    std::vector<std::uint64_t> total(static_cast<std::size_t>(count), 0);
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      std::vector<std::byte> theirs = own;
      ranks_.broadcast(rank, theirs);
      const auto* numbers = reinterpret_cast<const std::uint64_t*>(theirs.data());
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += numbers[i];
    }
    put(std::as_bytes(std::span(total)), values, stream);
  }
  void wait(Stream stream) override { cuda::check(cudaStreamSynchronize(stream)); }

 private:
  static std::vector<std::byte> fetch(const void* data, std::uint64_t bytes, Stream stream) {
    std::vector<std::byte> host(bytes);
    cuda::check(cudaMemcpyAsync(host.data(), data, bytes, cudaMemcpyDeviceToHost, stream));
    cuda::check(cudaStreamSynchronize(stream));
    return host;
  }
  static void put(std::span<const std::byte> host, void* data, Stream stream) {
    cuda::check(cudaMemcpyAsync(data, host.data(), host.size(), cudaMemcpyHostToDevice, stream));
    cuda::check(cudaStreamSynchronize(stream));
  }
  Communicator& ranks_;
};

// A thread's communicator with a link beside it.
class GpuRank final : public Communicator {
 public:
  explicit GpuRank(Communicator& thread) : thread_(thread), link_(thread) {}
  int rank() const override { return thread_.rank(); }
  int size() const override { return thread_.size(); }
  DeviceLink* device_link() override { return &link_; }
  void finish() override { thread_.finish(); }
  void abort(int code) override { thread_.abort(code); }

 private:
  void do_send(int to, std::span<const std::byte> bytes) override { thread_.send(to, bytes); }
  void do_receive(int from, std::span<std::byte> bytes) override { thread_.receive(from, bytes); }
  void do_finish_sends() override { thread_.finish_sends(); }
  void do_broadcast(int root, std::span<std::byte> bytes) override { thread_.broadcast(root, bytes); }
  Communicator& thread_;
  HostLink link_;
};

class GpuRanks : public test::GpuTest {
 protected:
  // Two passes of windows, the last one short.
  static TokenWindows windows_for(const Model& model) { return test::random_windows(model, 200, 24); }

  static void as_rank(Communicator& thread, const std::function<void(Communicator&)>& work) {
    GpuRank ranks(thread);
    work(ranks);
  }

  static void expect_same_with(int size, const Model& model, const GoldenRecipe& recipe) {
    const test::Shops shops{cuda::prune_shop({}), {}, cuda::probe_shop({})};
    const TokenWindows windows = windows_for(model);
    const std::string expected = golden_hash(model, recipe, shops, windows);
    EXPECT_NE(expected, "refused");
    ThreadRanks(size).run([&](Communicator& thread) {
      GpuRank ranks(thread);
      EXPECT_EQ(golden_hash(model, recipe, shops, windows, ranks), expected)
          << ranks.name() << ", " << recipe.score << ", " << recipe.refine << ", " << recipe.pattern;
    });
  }
};

TEST_F(GpuRanks, EveryRecipeGivesTheBytesOfOneGpu) {
  const auto model = Model::open(kModels / "llama2");
  for (const GoldenRecipe& recipe : test::golden_recipes()) expect_same_with(2, *model, recipe);
}

TEST_F(GpuRanks, FamiliesOfEveryShapeGiveTheBytesOfOneGpu) {
  for (const char* family : {"llama3", "gemma2", "qwen2", "pythia", "phi3"}) {
    SCOPED_TRACE(family);
    const auto model = Model::open(kModels / family);
    expect_same_with(2, *model, {"wanda", "aligned-admm(4,3)", "row", Propagation::kPruned, true});
  }
}

TEST_F(GpuRanks, ShrunkModelsAreTheBytesOfOneGpu) {
  const test::Shops shops{{}, cuda::shrink_shop({}), {}};
  for (const char* family : {"llama2", "gemma2", "phi3", "opt", "pythia"}) {
    const auto model = Model::open(kModels / family);
    const TokenWindows windows = windows_for(*model);
    for (const Compensation compensation :
         {Compensation::kNone, Compensation::kRefit, Compensation::kAligned}) {
      for (const int size : {2, 4}) {
        test::expect_same_with(
            size,
            [&](Communicator& ranks) {
              return golden_hash(*model, compensation, "contribution", shops, windows, ranks);
            },
            as_rank, fmt::format("{}, {}, {} ranks", family, name_of(compensation), size));
      }
    }
  }
}

TEST_F(GpuRanks, ExpertsArePrunedToTheBytesOfOneGpu) {
  const PruneShopMaker shop = cuda::prune_shop({});
  for (const char* family : {"qwen3_moe", "mixtral", "glm4_moe"}) {
    const auto model = Model::open(test::kExpertModels / family);
    const TokenWindows windows = windows_for(*model);
    for (const GoldenRecipe& recipe : test::expert_recipes()) {
      test::expect_same_with(2, test::pruning(shop, *model, windows, recipe), as_rank,
                             fmt::format("{}, {}, {}", family, recipe.score, recipe.refine));
    }
  }
}

TEST_F(GpuRanks, ExpertsAreTakenOutAsByOneGpu) {
  const ExpertShopMaker shop = cuda::expert_shop({});
  for (const char* family : {"qwen3_moe", "mixtral", "glm4_moe", "gpt_oss"}) {
    const auto model = Model::open(test::kExpertModels / family);
    const TokenWindows windows = windows_for(*model);
    for (const int size : {2, 4}) {
      for (const char* scorer : {"ours", "reap"}) {
        test::expect_same_with(size,
                               test::removal(shop, *model, windows, test::removal_options(*model, scorer)),
                               as_rank, fmt::format("{}, {}", family, scorer));
      }
    }
  }
}

TEST_F(GpuRanks, TuneFindsThePlanOfOneGpu) {
  const auto model = Model::open(kModels / "llama2");
  const TuneText text = split_for_tuning(test::random_windows(*model, 60, 64), 40, "text");
  const test::TempDir folder;
  for (const bool grids : {false, true}) {
    SCOPED_TRACE(grids);
    TuneOptions options;
    options.method = &method_by_name("best");
    options.max_trials = 25;
    options.group = 0;
    options.budget =
        grids ? TuneBudget{TuneBudget::Kind::kBits, 8.0} : TuneBudget{TuneBudget::Kind::kSparsity, 0.5};
    if (grids) options.bits = {8, 4, 3};
    const auto find = [&](const std::string& name, Communicator& ranks) {
      TuneOptions of_run = options;
      of_run.folder = folder.path() / fmt::format("{}-{}", name, grids);
      if (ranks.is_first()) std::filesystem::create_directory(of_run.folder);
      const auto device = open_device("cuda");
      return plan_document(tune(*model, *device, text, of_run, ranks));
    };
    const nlohmann::ordered_json expected = find("one", alone());
    ThreadRanks(2).run([&](Communicator& thread) {
      GpuRank ranks(thread);
      EXPECT_EQ(find("two", ranks), expected) << ranks.name();
    });
  }
}

TEST_F(GpuRanks, MoreRanksThanPassesOfWindows) {
  const auto model = Model::open(kModels / "llama2");
  for (const int size : {3, 4}) {
    expect_same_with(size, *model, {"wanda", "aligned-admm(4,3)", "row", Propagation::kPruned, true});
    expect_same_with(size, *model, {"stade", "none", "row", Propagation::kDense});
  }
}

}  // namespace
}  // namespace swiftprune
