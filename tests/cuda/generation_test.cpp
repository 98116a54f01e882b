// Generation on the GPU against the CPU's generator: every family, and packed models.
#include <algorithm>
#include <fstream>
#include <random>

#include "cuda/gpu.h"
#include "model/family_fixture.h"
#include "sparse/grid_model.h"
#include "support/forwards.h"
#include "support/gpu_models.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/serving/batch_engine.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

using test::model_folder;
using test::relative_error;
using test::TempDir;

constexpr double kFloat = 1e-4;
constexpr double kHalf = 3e-2;  // activations of 16 bits
// What tokens add to each layer passes a gate of six channels in the tiny models: what rounding moves there is felt.
double half_of(const Model& model) { return model.config().layer_embeddings ? 0.1 : kHalf; }

class CudaGenerationTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { test::have_gpu(); }

  static std::vector<std::int32_t> random_ids(const Model& model, std::int64_t count, std::mt19937& engine) {
    std::uniform_int_distribution<std::int32_t> token(
        0, static_cast<std::int32_t>(model.config().vocab_size) - 1);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
    for (std::int32_t& id : ids) id = token(engine);
    return ids;
  }

  // The prompt, a piece of several tokens after it, then single ones.
  static void expect_equal_logits(const Model& model, const Model& on_gpu, double tolerance,
                                  const cuda::GpuOptions& device = {}) {
    const std::int64_t length = std::min<std::int64_t>(24, model.config().max_positions);
    const std::int64_t prompt = length / 2;
    const auto backend = make_cpu_backend();
    Generator expected(model, *backend, ComputeType::kF32, 1, length);
    const auto found = cuda::make_generator(on_gpu, ComputeType::kF32, 1, length, device);
    std::mt19937 engine(3);
    for (std::int64_t done = 0; done < length;) {
      const std::int64_t count = done == 0        ? prompt
                                 : done == prompt ? std::min<std::int64_t>(3, length - done)
                                                  : 1;
      const std::vector<std::int32_t> ids = random_ids(model, count, engine);
      const ConstMatrixView a = expected.append(ids);
      const ConstMatrixView b = found->append(ids);
      EXPECT_LE(relative_error(b, a), tolerance) << "after " << done + count << " tokens";
      done += count;
    }
  }

  // A copy of the model whose linears have zeros: 2:4 where `two_four`, else about half of them. Returns the
  // names of the linears' weights.
  static std::vector<std::string> write_sparse(const Model& model, bool two_four,
                                               const std::filesystem::path& folder) {
    const Checkpoint& source = model.checkpoint();
    std::vector<std::string> linears;
    for (const BlockConfig& block : model.config().blocks) {
      for (const LinearTensors& linear : linears_of(block)) linears.push_back(linear.name + ".weight");
    }
    CheckpointWriter writer(folder, plan_like(source));
    std::mt19937 engine(5);
    for (const TensorInfo& tensor : source.tensors()) {
      const auto bytes = source.bytes(tensor);
      std::vector<std::uint16_t> bits(bytes.size() / 2);
      std::memcpy(bits.data(), bytes.data(), bytes.size());
      if (std::find(linears.begin(), linears.end(), tensor.name) != linears.end()) {
        for (std::size_t i = 0; i < bits.size(); ++i) {
          if (two_four ? i % 4 == i / 4 % 4 || i % 4 == (i / 4 + 1) % 4 : engine() % 2 == 0) bits[i] = 0;
        }
      }
      writer.write_bytes(tensor.name, std::as_bytes(std::span(bits)));
    }
    writer.write_file("config.json", source.config().dump());
    writer.finish();
    return linears;
  }
};

TEST_P(CudaGenerationTest, LogitsAgreeWithTheCpu) {
  const auto model = Model::open(model_folder(GetParam()));
  expect_equal_logits(*model, *model, kFloat);
}

// In lockstep: whole prompts side by side, pieces after them, single tokens (eager, then replayed).
TEST_P(CudaGenerationTest, BatchesAgreeWithTheCpu) {
  const auto model = Model::open(model_folder(GetParam()));
  const std::int64_t length = std::min<std::int64_t>(24, model->config().max_positions);
  const auto backend = make_cpu_backend();
  for (const std::int64_t sequences : {3, 16}) {
    Generator expected(*model, *backend, ComputeType::kF32, sequences, length);
    const auto found = cuda::make_generator(*model, ComputeType::kF32, sequences, length, {});
    std::mt19937 engine(11);
    for (int run = 0; run < 2; ++run) {
      for (std::int64_t done = 0; done < length;) {
        const std::int64_t count = std::min(length - done, std::int64_t{done == 0 ? 9 : done == 9 ? 4 : 1});
        const std::vector<std::int32_t> ids = random_ids(*model, sequences * count, engine);
        const ConstMatrixView a = expected.append(ids);
        const ConstMatrixView b = found->append(ids);
        ASSERT_EQ(b.rows, sequences);
        for (std::int64_t s = 0; s < sequences; ++s)
          EXPECT_LE(relative_error(b.row_block(s, 1), a.row_block(s, 1)), kFloat) << s << " at " << done;
        done += count;
      }
      expected.restart();
      found->restart();
    }
    EXPECT_GT(found->bytes_per_step(1), 0);
    EXPECT_GT(found->bytes_per_step(2), found->bytes_per_step(1));
  }
}

// Lanes of different lengths: what the scheduler asks for.
TEST_P(CudaGenerationTest, LanesAgreeWithTheCpu) {
  const auto model = Model::open(model_folder(GetParam()));
  const std::int64_t capacity = std::min<std::int64_t>(24, model->config().max_positions);
  const auto backend = make_cpu_backend();
  BatchEngine expected(*model, *backend, ComputeType::kF32, 4, capacity, nullptr);
  const auto found = cuda::make_engine(*model, ComputeType::kF32, 4, capacity, {});
  ASSERT_EQ(found->num_lanes(), 4);
  ASSERT_EQ(found->capacity(), capacity);
  std::mt19937 engine(12);
  const auto expect_equal = [&](ConstMatrixView b, ConstMatrixView a, const char* what) {
    ASSERT_EQ(b.rows, a.rows);
    for (std::int64_t r = 0; r < a.rows; ++r)
      EXPECT_LE(relative_error(b.row_block(r, 1), a.row_block(r, 1)), kFloat) << what << " " << r;
  };
  const auto prefill = [&](std::int64_t lane, std::int64_t tokens) {
    const std::vector<std::int32_t> ids = random_ids(*model, tokens, engine);
    expect_equal(found->prefill(lane, ids), expected.prefill(lane, ids), "prefill");
  };
  const auto decode = [&](std::int64_t lanes) {
    const std::vector<std::int32_t> ids = random_ids(*model, lanes, engine);
    expect_equal(found->decode(ids), expected.decode(ids), "decode");
  };
  const auto both = [&](const auto& call) {
    call(*found);
    call(static_cast<SequenceEngine&>(expected));
  };
  both([&](SequenceEngine& e) {
    for (std::int64_t lane = 0; lane < 4; ++lane)
      e.start({.lane = lane, .source = lane, .positions = capacity});
  });
  prefill(0, 5);
  prefill(1, 1);
  prefill(2, 3);
  prefill(2, 6);
  for (int i = 0; i < 3; ++i) decode(3);
  both([](SequenceEngine& e) { e.swap(0, 2); });  // lane 2 ends, another takes its place
  decode(2);
  both([&](SequenceEngine& e) { e.start({.lane = 2, .source = 2, .positions = capacity}); });
  prefill(2, 7);
  prefill(3, 2);
  for (int i = 0; i < 3; ++i) decode(4);
}

// A lane that takes over another's first positions, the last of which lie within a page; both then go on.
TEST_P(CudaGenerationTest, TakenOverBeginningsAgreeWithTheCpu) {
  const auto model = Model::open(model_folder(GetParam()));
  const std::int64_t capacity = std::min<std::int64_t>(200, model->config().max_positions);
  const std::int64_t length = capacity * 3 / 4;
  const auto backend = make_cpu_backend();
  BatchEngine expected(*model, *backend, ComputeType::kF32, 3, capacity, nullptr);
  const auto found = cuda::make_engine(*model, ComputeType::kF32, 3, capacity, {});
  SequenceEngine* const engines[] = {found.get(), &expected};
  std::mt19937 engine(13);
  const std::vector<std::int32_t> prompt = random_ids(*model, length, engine);
  const auto expect_equal = [&](const auto& run) {
    const ConstMatrixView b = run(*found), a = run(expected);
    ASSERT_EQ(b.rows, a.rows);
    for (std::int64_t r = 0; r < a.rows; ++r)
      EXPECT_LE(relative_error(b.row_block(r, 1), a.row_block(r, 1)), kFloat) << r;
  };
  for (SequenceEngine* e : engines) e->start({.positions = capacity});
  expect_equal([&](SequenceEngine& e) { return e.prefill(0, prompt); });
  for (const std::int64_t shared : {length - 1, length / 2, std::int64_t{1}}) {
    SCOPED_TRACE(shared);
    std::vector<std::int64_t> kept;
    for (SequenceEngine* e : engines)
      kept.push_back(e->start({.lane = 1, .source = 0, .shared = shared, .positions = capacity}).value());
    ASSERT_EQ(kept[0], kept[1]);
    const std::vector<std::int32_t> rest = random_ids(*model, length - kept[0], engine);
    expect_equal([&](SequenceEngine& e) { return e.prefill(1, rest); });
    // Lane 2 begins as lane 1 does, which then goes back into a page that both hold.
    for (SequenceEngine* e : engines) {
      e->start({.lane = 2, .source = 1, .shared = length - 2, .positions = capacity});
      e->start({.lane = 1, .source = 1, .shared = length - 3, .positions = capacity});
    }
    const auto whole = random_ids(*model, length, engine);
    const std::int64_t left = model->config().has_recurrent_blocks() ? length : 2;
    const std::span<const std::int32_t> some = std::span(whole).first(static_cast<std::size_t>(left));
    expect_equal([&](SequenceEngine& e) { return e.prefill(1, some); });
    expect_equal([&](SequenceEngine& e) { return e.prefill(2, some); });
    if (length + 2 >= capacity) break;
    for (int step = 0; step < 2; ++step) {
      const std::vector<std::int32_t> ids = random_ids(*model, 3, engine);
      expect_equal([&](SequenceEngine& e) { return e.decode(ids); });
    }
    for (SequenceEngine* e : engines) e->start({.source = 0, .shared = length, .positions = capacity});
    if (model->config().has_recurrent_blocks()) break;
  }
}

// Lanes share a limit: what one gives back another gets, and the device holds no more.
TEST(CudaCacheTest, LanesShareTheMemory) {
  if (!test::have_gpu()) return;
  const auto model = Model::open(model_folder("llama2"));
  const auto unlimited = cuda::make_engine(*model, ComputeType::kF32, 4, 200, {});
  const std::int64_t page = unlimited->cache_memory().limit / (4 * 4);  // four lanes of four pages
  EXPECT_EQ(unlimited->cache_memory().used, 0);
  const auto engine = cuda::make_engine(*model, ComputeType::kF32, 4, 200,
                                        {.cache_bytes = static_cast<std::uint64_t>(5 * page + 1)});
  EXPECT_EQ(engine->capacity(), 200);
  EXPECT_EQ(engine->cache_memory().limit, 5 * page);
  EXPECT_TRUE(engine->start({.lane = 0, .source = 0, .positions = 200}));
  EXPECT_FALSE(engine->start({.lane = 1, .source = 1, .positions = 65}));
  EXPECT_TRUE(engine->start({.lane = 1, .source = 1, .positions = 64}));
  EXPECT_EQ(engine->cache_memory().used, 5 * page);
  engine->prefill(0, std::vector<std::int32_t>(70, 3));
  engine->trim(0);
  EXPECT_EQ(engine->cache_memory().used, 3 * page);
  // A full page is shared; the rest is the lane's own.
  EXPECT_TRUE(engine->start({.lane = 2, .source = 0, .shared = 66, .positions = 128}));
  EXPECT_EQ(engine->cache_memory().used, 4 * page);
  engine->drop(0);
  EXPECT_EQ(engine->cache_memory().used, 3 * page);
  EXPECT_THROW(cuda::make_engine(*model, ComputeType::kF32, 4, 200, {.cache_bytes = 100}), Error);
}

class CudaPackedGenerationTest : public CudaGenerationTest {};

TEST_P(CudaPackedGenerationTest, PackedLogitsAgreeWithTheCpu) {
  const auto source = Model::open(model_folder(GetParam()));
  for (const TensorInfo& tensor : source->checkpoint().tensors()) {
    if (tensor.dtype == DType::kF32) GTEST_SKIP() << "only 16-bit weights are packed";
  }
  for (const bool two_four : {false, true}) {
    const TempDir dir;
    const auto linears = write_sparse(*source, two_four, dir.path() / "sparse");
    const auto sparse = Model::open(dir.path() / "sparse");
    pack_checkpoint(sparse->checkpoint(), linears, dir.path() / "packed", {});
    const auto packed = Model::open(dir.path() / "packed");
    expect_equal_logits(*sparse, *packed, half_of(*source));
    Timings timings({});
    expect_equal_logits(*sparse, *packed, half_of(*source), {.timings = &timings, .long_lived = true});
  }
}

// Beside a table in few bits where it is an output projection of its own or the embedding.
TEST_P(CudaPackedGenerationTest, GridLogitsAgreeWithTheCpu) {
  const auto source = Model::open(model_folder(GetParam()));
  std::vector<std::string> linears;
  for (const BlockConfig& block : source->config().blocks) {
    for (const LinearTensors& linear : linears_of(block)) linears.push_back(linear.name + ".weight");
  }
  const TempDir dir;
  testing_sparse::write_grid_model(source->checkpoint(), linears, {4, 0, true}, source->config().head, 8,
                                   dir.path() / "grid");
  const auto grid = Model::open(dir.path() / "grid");
  expect_equal_logits(*grid, *grid, kHalf);
}

TEST_P(CudaPackedGenerationTest, PackedPerplexityAgreesWithTheCpu) {
  const auto source = Model::open(model_folder(GetParam()));
  for (const TensorInfo& tensor : source->checkpoint().tensors()) {
    if (tensor.dtype == DType::kF32) GTEST_SKIP() << "only 16-bit weights are packed";
  }
  const TempDir dir;
  const auto linears = write_sparse(*source, false, dir.path() / "sparse");
  const auto sparse = Model::open(dir.path() / "sparse");
  pack_checkpoint(sparse->checkpoint(), linears, dir.path() / "packed", {});
  const auto packed = Model::open(dir.path() / "packed");
  const TokenWindows windows = test::Expected(GetParam()).windows();
  const std::vector<ScoredWindows> parts{
      {windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)}};
  const auto backend = make_cpu_backend();
  const double expected = test::perplexity_of(*sparse, *backend, parts).perplexity;
  const Model* models[] = {packed.get()};
  Timings timings({});
  for (Timings* tuning : {static_cast<Timings*>(nullptr), &timings}) {
    const auto forwards = cuda::make_text_forwards(models, ComputeType::kF32, {.timings = tuning});
    EXPECT_NEAR(perplexity(*packed, *forwards, parts, {}).perplexity, expected, 0.02 * expected);
  }
}

// LoRA folders (tests/model/adapter_test.cpp holds the processor to PEFT), beside dense weights and beside packed ones.
const std::filesystem::path kAdapters = SWIFTPRUNE_TEST_DATA "/adapter";
class CudaAdapterTest : public CudaGenerationTest {};

TEST_P(CudaAdapterTest, AgreesWithTheCpu) {
  const auto model = Model::open(model_folder(GetParam()), kAdapters / GetParam());
  expect_equal_logits(*model, *model, kFloat);
  const TokenWindows windows = test::Expected(GetParam()).windows();
  const std::vector<ScoredWindows> parts{
      {windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)}};
  const auto backend = make_cpu_backend();
  const Model* models[] = {model.get()};
  const auto forwards = cuda::make_text_forwards(models, ComputeType::kF32, {});
  EXPECT_NEAR(perplexity(*model, *forwards, parts, {}).mean_nll,
              test::perplexity_of(*model, *backend, parts).mean_nll, 1e-4);
}

TEST_P(CudaAdapterTest, AgreesWithTheCpuBesidePackedWeights) {
  const auto source = Model::open(model_folder(GetParam()));
  for (const TensorInfo& tensor : source->checkpoint().tensors()) {
    if (tensor.dtype == DType::kF32) GTEST_SKIP() << "only 16-bit weights are packed";
  }
  const TempDir dir;
  const auto linears = write_sparse(*source, false, dir.path() / "sparse");
  pack_checkpoint(Model::open(dir.path() / "sparse")->checkpoint(), linears, dir.path() / "packed", {});
  const auto sparse = Model::open(dir.path() / "sparse", kAdapters / GetParam());
  const auto packed = Model::open(dir.path() / "packed", kAdapters / GetParam());
  expect_equal_logits(*sparse, *packed, kHalf);
}

INSTANTIATE_TEST_SUITE_P(Peft, CudaAdapterTest, ::testing::ValuesIn(test::names_in(kAdapters)),
                         [](const auto& adapter) { return adapter.param; });

// Prompts of many rows, whose tokens are sorted by expert, and single tokens, which are not.
INSTANTIATE_TEST_SUITE_P(Experts, CudaGenerationTest, ::testing::ValuesIn(test::gpu_expert_model_names()),
                         [](const auto& family) { return family.param; });
INSTANTIATE_TEST_SUITE_P(Families, CudaGenerationTest, ::testing::ValuesIn(test::gpu_model_names()),
                         [](const auto& family) { return family.param; });

INSTANTIATE_TEST_SUITE_P(Families, CudaPackedGenerationTest, ::testing::ValuesIn(test::gpu_model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
