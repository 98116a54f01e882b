// Whole models whose experts are packed, on the GPU against the CPU: prompts, single tokens, batches, recorded steps,
// texts; and what is refused.
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "cuda/gpu.h"
#include "model/family_fixture.h"
#include "sparse/grid_model.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/gpu_models.h"
#include "support/temp_dir.h"
#include "swiftprune/core/index.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::model_folder;
using test::relative_error;
using test::TempDir;

// Of activations of 16 bits beside those of 32.
constexpr double kTolerance = 3e-2;
// Where two experts rank almost alike, rounding may choose the other one, and that token's logits and those behind it
// differ by more, to the end of its sequence: so many must agree with the CPU's, and with those of the same weights
// unpacked, which are computed in 16 bits, too.
constexpr double kAlikeOnCpu = 0.5;
constexpr double kAlikeUnpacked = 0.9;

std::vector<std::int32_t> random_tokens(const Model& model, std::int64_t count, std::mt19937& engine) {
  std::uniform_int_distribution<std::int32_t> token(0,
                                                    static_cast<std::int32_t>(model.config().vocab_size) - 1);
  std::vector<std::int32_t> ids(at(count));
  for (std::int32_t& id : ids) id = token(engine);
  return ids;
}

// Of a round, for each sequence, which then begins anew.
struct TokenCounts {
  std::int64_t sequences = 1, prompt = 1, singles = 3, piece = 2;
  int rounds = 1;
  std::int64_t all() const { return prompt + singles + piece; }
};

// Both generators get the prompts, then single tokens, of which the very first is computed step by step and the others
// are replayed, then a piece of a few.
void expect_same_logits(const Model& model, SequenceGenerator& found, SequenceGenerator& expected,
                        const TokenCounts& tokens, double least_alike) {
  std::mt19937 engine(3);
  std::vector<double> errors;
  for (int round = 0; round < tokens.rounds; ++round) {
    for (std::int64_t done = 0; done < tokens.all();) {
      const std::int64_t count = done == 0                               ? tokens.prompt
                                 : done < tokens.prompt + tokens.singles ? 1
                                                                         : tokens.piece;
      const std::vector<std::int32_t> ids = random_tokens(model, tokens.sequences * count, engine);
      const ConstMatrixView a = expected.append(ids), b = found.append(ids);
      ASSERT_EQ(b.rows, tokens.sequences);
      for (std::int64_t s = 0; s < tokens.sequences; ++s)
        errors.push_back(relative_error(b.row_block(s, 1), a.row_block(s, 1)));
      done += count;
    }
    expected.restart();
    found.restart();
  }
  const auto alike = std::ranges::count_if(errors, [](double error) { return error <= kTolerance; });
  EXPECT_GE(static_cast<double>(alike), least_alike * static_cast<double>(errors.size()))
      << ::testing::PrintToString(errors);
}

void expect_the_cpus_logits(const Model& model, const TokenCounts& tokens) {
  const auto backend = make_cpu_backend();
  Generator expected(model, *backend, ComputeType::kF32, tokens.sequences, tokens.all());
  const auto found = cuda::make_generator(model, ComputeType::kBF16, tokens.sequences, tokens.all(), {});
  expect_same_logits(model, *found, expected, tokens, kAlikeOnCpu);
}

void expect_the_unpacked_logits(const Model& model, const Model& unpacked, const TokenCounts& tokens) {
  const auto of = [&](const Model& one) {
    return cuda::make_generator(one, ComputeType::kBF16, tokens.sequences, tokens.all(), {});
  };
  expect_same_logits(model, *of(model), *of(unpacked), tokens, kAlikeUnpacked);
}

// Steps that run kernel by kernel give the bits of those that are replayed.
void expect_recorded_bits(const Model& model) {
  constexpr std::int64_t kSteps = 4;
  const auto found = cuda::make_generator(model, ComputeType::kBF16, 2, kSteps, {});
  std::mt19937 engine(4);
  const std::vector<std::int32_t> ids = random_tokens(model, 2 * kSteps, engine);
  std::vector<std::vector<float>> runs;
  for (int run = 0; run < 2; ++run) {  // the first step of the first run is not recorded yet
    for (std::int64_t step = 0; step < kSteps; ++step) {
      const ConstMatrixView logits = found->append(std::span(ids).subspan(at(2 * step), 2));
      std::vector<float>& all = runs.emplace_back();
      for (std::int64_t s = 0; s < 2; ++s) all.insert(all.end(), logits.row(s), logits.row(s) + logits.cols);
    }
    found->restart();
  }
  for (std::int64_t step = 0; step < kSteps; ++step)
    EXPECT_EQ(runs[at(step)], runs[at(kSteps + step)]) << step;
}

double cpu_perplexity(const Model& model, const TokenWindows& windows) {
  const auto backend = make_cpu_backend();
  const std::vector<ScoredWindows> parts{{windows, std::vector<std::int64_t>(at(windows.num_windows()), 1)}};
  return test::perplexity_of(model, *backend, parts).perplexity;
}

double gpu_perplexity(const Model& model, const TokenWindows& windows) {
  const std::vector<ScoredWindows> parts{{windows, std::vector<std::int64_t>(at(windows.num_windows()), 1)}};
  const Model* models[] = {&model};
  const auto forwards = cuda::make_text_forwards(models, ComputeType::kBF16, {});
  return perplexity(model, *forwards, parts, {}).perplexity;
}

// -- The families' tiny models, of odd sizes ----------------------------------------------------------------

class CudaPackedExpertFamilies : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { test::have_gpu(); }

  static std::vector<std::string> weights_of(const Model& model) {
    std::vector<std::string> names;
    for (const BlockWeight& weight : block_weights(model.config())) names.push_back(weight.name());
    return names;
  }
  static bool has_floats(const Model& model) {
    const StoredWeights stored(model.checkpoint());
    return std::ranges::any_of(
        weights_of(model), [&](const std::string& name) { return stored.info(name).dtype == DType::kF32; });
  }
  void expect_as_on_cpu(const Model& packed) const {
    expect_the_cpus_logits(packed, {.prompt = 4, .rounds = 8});
    expect_the_cpus_logits(packed, {.sequences = 3, .prompt = 9, .rounds = 3});
    expect_recorded_bits(packed);
    const TokenWindows windows = test::Expected(GetParam()).windows();
    const double expected = cpu_perplexity(packed, windows);
    EXPECT_NEAR(gpu_perplexity(packed, windows), expected, 0.05 * expected);
  }

  TempDir dir_;
  std::unique_ptr<Model> model_ = Model::open(model_folder(GetParam()));
};

TEST_P(CudaPackedExpertFamilies, InSixteenAndEightBits) {
  if (has_floats(*model_)) GTEST_SKIP() << "only 16-bit weights are packed";
  for (const Quantize quantize : {Quantize::kNone, Quantize::kInt8}) {
    const auto folder = dir_.path() / std::string(name_of(quantize));
    const StoredWeights stored(model_->checkpoint());
    PackOptions options;
    options.quantize = quantize;
    options.parts = &stored;
    pack_checkpoint(model_->checkpoint(), weights_of(*model_), folder, options);
    const auto packed = Model::open(folder);
    SCOPED_TRACE(name_of(quantize));
    expect_as_on_cpu(*packed);
  }
}

TEST_P(CudaPackedExpertFamilies, OnGrids) {
  const std::vector<std::string> names = weights_of(*model_);
  if (std::ranges::any_of(names, [&](const auto& name) { return !model_->checkpoint().find(name); }))
    GTEST_SKIP() << "experts in one tensor";
  for (const QuantGrid& grid : {QuantGrid{4, 0, true}, QuantGrid{3, 0, false}, QuantGrid{8, 0, false}}) {
    const auto folder = dir_.path() / std::to_string(grid.bits);
    testing_sparse::write_grid_model(model_->checkpoint(), names, grid, "", 0, folder);
    const auto packed = Model::open(folder);
    SCOPED_TRACE(format(grid));
    expect_as_on_cpu(*packed);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaPackedExpertFamilies,
                         ::testing::ValuesIn(test::gpu_expert_model_names()),
                         [](const auto& family) { return family.param; });

// -- A model whose sizes are those of kernels ---------------------------------------------------------------

constexpr std::int64_t kHidden = 128, kWidth = 64, kExperts = 16, kHead = 32, kVocab = 320, kLayers = 2;

// Rounded to the nearest code, symmetric, with powers of two for scales: 16 bits hold the values exactly.
QuantizedWeight nearest(const Matrix& values, const QuantGrid& grid) {
  QuantizedWeight w{grid, values.rows(), values.cols(), {}, {}, {}};
  const std::int64_t groups = grid.groups_of(values.cols()), size = values.cols() / groups;
  const int most = grid.middle() - 1;
  for (std::int64_t r = 0; r < values.rows(); ++r) {
    for (std::int64_t g = 0; g < groups; ++g) {
      float largest = 0.0f;
      for (std::int64_t c = g * size; c < (g + 1) * size; ++c)
        largest = std::max(largest, std::abs(values.at(r, c)));
      const float scale = std::exp2(std::ceil(std::log2(largest / static_cast<float>(most))));
      w.scales.push_back(f32_to_f16(scale));
      for (std::int64_t c = g * size; c < (g + 1) * size; ++c) {
        const auto step = static_cast<int>(std::lround(values.at(r, c) / scale));
        w.codes.push_back(static_cast<std::uint8_t>(grid.middle() + std::clamp(step, -most, most)));
      }
    }
  }
  return w;
}

// Of a tensor in the folder: packed, or dense where it is not.
using Packing = std::function<std::optional<PackedTensor>(const std::string& name, const Matrix& values)>;

// A Qwen3 with experts, random.
class SmallModel {
 public:
  explicit SmallModel(const Packing& packing) {
    std::vector<PlannedTensor> plan;
    std::vector<std::vector<std::byte>> bytes;
    std::mt19937 engine(9);
    for (const auto& [name, rows, cols] : tensors()) {
      Matrix values(rows, cols);
      std::normal_distribution<float> normal(rows == 1 ? 1.0f : 0.0f,
                                             rows == 1 ? 0.1f : 1.0f / std::sqrt(static_cast<float>(cols)));
      for (float& value : values.values()) value = normal(engine);
      std::optional<PackedTensor> packed;
      if (rows > 1 && name.find("_proj") != std::string::npos) packed = packing(name, values);
      std::vector<std::byte>& of = bytes.emplace_back();
      if (packed) {
        of.assign(packed->bytes().begin(), packed->bytes().end());
        plan.push_back({name + ".weight.packed", DType::kU8, {std::ssize(of)}, "model.safetensors", true});
        continue;
      }
      of.resize(at(values.numel() * 2));
      convert_from_f32(values.values(), DType::kBF16, of);
      plan.push_back({name + ".weight", DType::kBF16,
                      rows == 1 ? std::vector<std::int64_t>{cols} : std::vector<std::int64_t>{rows, cols},
                      "model.safetensors"});
    }
    CheckpointWriter writer(dir_.path() / "model", plan);
    for (std::size_t i = 0; i < plan.size(); ++i) writer.write_bytes(plan[i].name, bytes[i]);
    writer.write_file("config.json", config().dump());
    writer.finish();
    model_ = Model::open(dir_.path() / "model");
  }
  const Model& operator*() const { return *model_; }

 private:
  struct Tensor {
    std::string name;
    std::int64_t rows, cols;
  };
  static std::vector<Tensor> tensors() {
    std::vector<Tensor> all{{"model.embed_tokens", kVocab, kHidden}};
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string block = fmt::format("model.layers.{}.", layer);
      for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
        all.push_back({block + "self_attn." + name, kHidden, kHidden});
      for (const char* name : {"q_norm", "k_norm"}) all.push_back({block + "self_attn." + name, 1, kHead});
      all.push_back({block + "mlp.gate", kExperts, kHidden});
      for (std::int64_t e = 0; e < kExperts; ++e) {
        const std::string expert = fmt::format("{}mlp.experts.{}.", block, e);
        for (const char* name : {"gate_proj", "up_proj"}) all.push_back({expert + name, kWidth, kHidden});
        all.push_back({expert + "down_proj", kHidden, kWidth});
      }
      for (const char* name : {"input_layernorm", "post_attention_layernorm"})
        all.push_back({block + name, 1, kHidden});
    }
    all.push_back({"model.norm", 1, kHidden});
    all.push_back({"lm_head", kVocab, kHidden});
    return all;
  }
  static nlohmann::ordered_json config() {
    return {{"architectures", {"Qwen3MoeForCausalLM"}},
            {"model_type", "qwen3_moe"},
            {"vocab_size", kVocab},
            {"hidden_size", kHidden},
            {"intermediate_size", kWidth},
            {"moe_intermediate_size", kWidth},
            {"num_hidden_layers", kLayers},
            {"num_attention_heads", kHidden / kHead},
            {"num_key_value_heads", kHidden / kHead},
            {"head_dim", kHead},
            {"num_experts", kExperts},
            {"num_experts_per_tok", 4},
            {"norm_topk_prob", true},
            {"decoder_sparse_step", 1},
            {"mlp_only_layers", nlohmann::ordered_json::array()},
            {"max_position_embeddings", 1024},
            {"rms_norm_eps", 1e-6},
            {"rope_theta", 10000.0},
            {"hidden_act", "silu"},
            {"tie_word_embeddings", false}};
  }

  TempDir dir_;
  std::unique_ptr<Model> model_;
};

std::optional<PackedTensor> on_grid(const Matrix& values, const QuantGrid& grid) {
  return pack(nearest(values, grid), {PackedKind::kDenseGrid});
}

// Half of the weights, 16 bits; every other tensor keeps all of them.
std::optional<PackedTensor> with_zeros(const std::string& name, const Matrix& values) {
  std::vector<std::uint16_t> bits(at(values.numel()));
  convert_from_f32(values.values(), DType::kBF16, std::as_writable_bytes(std::span(bits)));
  if (name.find("up_proj") == std::string::npos) {
    for (std::size_t i = 0; i < bits.size(); i += 2) bits[i] = 0;
  }
  const WeightBits weight{bits, values.rows(), values.cols(), DType::kBF16};
  return pack(weight, formats_for(weight, Quantize::kNone).front().format);
}

struct PackingCase {
  const char* name;
  Packing packing;
};
void PrintTo(const PackingCase& of, std::ostream* out) { *out << of.name; }

class CudaPackedExpertModel : public ::testing::TestWithParam<PackingCase> {
 protected:
  void SetUp() override { test::have_gpu(); }
  // One token; few and many of one expert, of which the latter's weights are expanded; a few sequences.
  static std::vector<TokenCounts> counts() {
    return {{.rounds = 8},
            {.sequences = 2, .prompt = 40, .rounds = 4},
            {.sequences = 5, .rounds = 3},
            {.sequences = 3, .prompt = 700}};
  }
  SmallModel model_{GetParam().packing};
};

TEST_P(CudaPackedExpertModel, LogitsAreTheCpus) {
  for (const TokenCounts& tokens : counts()) expect_the_cpus_logits(*model_, tokens);
}

TEST_P(CudaPackedExpertModel, LogitsAreThoseOfItsWeightsUnpacked) {
  const TempDir dir;
  unpack_checkpoint((*model_).checkpoint(), dir.path() / "unpacked", {});
  const auto unpacked = Model::open(dir.path() / "unpacked");
  for (const TokenCounts& tokens : counts()) expect_the_unpacked_logits(*model_, *unpacked, tokens);
}

TEST_P(CudaPackedExpertModel, RecordedStepsGiveTheirBits) { expect_recorded_bits(*model_); }

// What the GPU writes is what the CPU would have, but where two tokens are almost as likely.
TEST_P(CudaPackedExpertModel, TextIsTheCpus) {
  constexpr std::int64_t kPrompt = 6, kSteps = 40;
  const auto backend = make_cpu_backend();
  Generator expected(*model_, *backend, ComputeType::kF32, 1, kPrompt + kSteps);
  const auto found = cuda::make_generator(*model_, ComputeType::kBF16, 1, kPrompt + kSteps, {});
  std::mt19937 engine(21);
  std::vector<std::int32_t> ids = random_tokens(*model_, kPrompt, engine);
  int same = 0;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const ConstMatrixView a = expected.append(ids), b = found->append(ids);
    const auto best = [](ConstMatrixView logits) {
      return static_cast<std::int32_t>(std::max_element(logits.row(0), logits.row(0) + logits.cols) -
                                       logits.row(0));
    };
    const std::int32_t token = best(b);
    same += token == best(a) ? 1 : 0;
    ids = {token};
  }
  EXPECT_GE(same, kSteps * 9 / 10);
}

TEST_P(CudaPackedExpertModel, PerplexityIsTheCpus) {
  std::mt19937 engine(8);
  const TokenWindows windows{128, random_tokens(*model_, 4 * 128, engine)};
  const double expected = cpu_perplexity(*model_, windows);
  EXPECT_NEAR(gpu_perplexity(*model_, windows), expected, 0.01 * expected);
}

TEST_P(CudaPackedExpertModel, ReadsFewerBytes) {
  const SmallModel dense([](const std::string&, const Matrix&) { return std::nullopt; });
  for (const std::int64_t sequences : {1, 8}) {
    const auto bytes = [&](const Model& model) {
      return cuda::make_generator(model, ComputeType::kBF16, sequences, 8, {})->bytes_per_step(0);
    };
    EXPECT_LT(bytes(*model_), bytes(*dense));
  }
}

INSTANTIATE_TEST_SUITE_P(Packings, CudaPackedExpertModel,
                         ::testing::Values(PackingCase{"int4",
                                                       [](const auto&, const Matrix& m) {
                                                         return on_grid(m, {4, 64, false});
                                                       }},
                                           PackingCase{"int4_g32",
                                                       [](const auto&, const Matrix& m) {
                                                         return on_grid(m, {4, 32, false});
                                                       }},
                                           PackingCase{"int3",
                                                       [](const auto&, const Matrix& m) {
                                                         return on_grid(m, {3, 32, false});
                                                       }},
                                           PackingCase{"int8",
                                                       [](const auto&, const Matrix& m) {
                                                         return on_grid(m, {8, 64, false});
                                                       }},
                                           PackingCase{"zeros", with_zeros},
                                           PackingCase{"experts_alone",
                                                       [](const std::string& name,
                                                          const Matrix& m) -> std::optional<PackedTensor> {
                                                         if (name.find("experts") == std::string::npos)
                                                           return std::nullopt;
                                                         return on_grid(m, {4, 64, false});
                                                       }},
                                           PackingCase{"one_layer_alone",
                                                       [](const std::string& name,
                                                          const Matrix& m) -> std::optional<PackedTensor> {
                                                         if (name.find("layers.1.") == std::string::npos)
                                                           return std::nullopt;
                                                         return on_grid(m, {4, 64, false});
                                                       }}),
                         [](const auto& of) { return of.param.name; });

class CudaPackedExpertRefusal : public test::GpuTest {
 protected:
  static void expect_refused(const Model& model, std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kUsage, [&] { cuda::make_generator(model, ComputeType::kBF16, 1, 8, {}); }, texts);
  }
};

TEST_F(CudaPackedExpertRefusal, OfTwoGrids) {
  const SmallModel model([](const std::string& name, const Matrix& m) {
    return on_grid(m, {4, name.find("layers.1.mlp.experts.3.up") != std::string::npos ? 32 : 64, false});
  });
  expect_refused(*model,
                 {"model.layers.1.mlp.experts.3.up_proj.weight", "found dense int4 g32 beside dense int4 g64",
                  "expected one grid", "on a GPU", "use --device cpu", "swiftprune unpack"});
}

TEST_F(CudaPackedExpertRefusal, OfAGridAndNone) {
  const SmallModel model([](const std::string& name, const Matrix& m) -> std::optional<PackedTensor> {
    if (name.find("experts.5.down") != std::string::npos) return std::nullopt;
    return on_grid(m, {4, 64, false});
  });
  expect_refused(*model,
                 {"model.layers.0.mlp.experts.5.down_proj.weight", "found dense16 beside dense int4 g64"});
}

// Gate and up are on one grid, down on another, as each linear may be.
TEST_F(CudaPackedExpertRefusal, NotOfAGridForEachInput) {
  const SmallModel model([](const std::string& name, const Matrix& m) {
    return on_grid(m, {name.find("down") != std::string::npos ? 8 : 4, 64, false});
  });
  expect_the_cpus_logits(*model, {.prompt = 5, .rounds = 8});
}

}  // namespace
}  // namespace swiftprune
