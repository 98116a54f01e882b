// One test body over every tiny model: logits, the inputs of a block's linears, cached generation, writing
// and reading back; against transformers' values.
#include "swiftprune/model/family.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/logits.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/tensor_names.h"
#include "swiftprune/checkpoint/text_tower.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/generator.h"

namespace swiftprune {
namespace {

using test::all_model_names;
using test::Expected;
using test::max_difference;
using test::model_folder;

// Absolute, on logits of size up to 20: rounding of float sums in another order.
constexpr double kTolerance = 1e-4;
// bf16 operands have 8 significant bits.
constexpr double kBf16Tolerance = 0.05;

// Row `position` of every sequence.
Matrix rows_at(const Matrix& logits, std::int64_t num_sequences, std::int64_t position) {
  const std::int64_t length = logits.rows() / num_sequences;
  Matrix rows(num_sequences, logits.cols());
  for (std::int64_t s = 0; s < num_sequences; ++s)
    std::copy_n(logits.row(s * length + position), logits.cols(), rows.row(s));
  return rows;
}

double largest(const Matrix& m) {
  double most = 0.0;
  for (const float value : m.values()) most = std::max(most, std::abs(double{value}));
  return most;
}

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  Expected expected_{GetParam()};
  std::unique_ptr<Model> model_ = Model::open(model_folder(GetParam()));
  TokenWindows windows_ = expected_.windows();
  Matrix logits_ = expected_.matrix("logits");
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_P(FamilyTest, Logits) {
  for (const Backend* backend : {cpu_.get(), reference_.get()}) {
    EXPECT_LE(max_difference(test::logits_of(*model_, *backend, windows_).view(), logits_.view()), kTolerance)
        << backend->name();
  }
}

TEST_P(FamilyTest, LogitsInBf16AreNear) {
  const Matrix found = test::logits_of(*model_, *cpu_, windows_, ComputeType::kBF16);
  // Where two experts are nearly equally good, rounding chooses another one: a few tokens may differ.
  const std::int64_t allowed = model_->config().has_experts() ? found.rows() / 10 : 0;
  std::int64_t far = 0;
  for (std::int64_t r = 0; r < found.rows(); ++r) {
    const double difference = max_difference(found.view().row_block(r, 1), logits_.view().row_block(r, 1));
    far += difference <= kBf16Tolerance * largest(logits_) ? 0 : 1;
  }
  EXPECT_LE(far, allowed);
}

TEST_P(FamilyTest, InputsOfTheLastBlocksLinears) {
  const auto window = windows_.window(windows_.num_windows() - 1);
  const std::vector<RopeTable> ropes = model_->rope_tables(windows_.seqlen);
  for (const Backend* backend : {cpu_.get(), reference_.get()}) {
    Matrix hidden(windows_.seqlen, model_->config().row_size());
    model_->embed(window, windows_.seqlen, 0, hidden.view());
    std::vector<LinearInput> seen;
    const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
      seen.push_back(input);
      EXPECT_LE(max_difference(x, expected_.matrix(std::string(name_of(input))).view()), kTolerance)
          << name_of(input);
    };
    const std::int64_t last = model_->config().num_layers() - 1;
    for (std::int64_t layer = 0; layer <= last; ++layer) {
      DecoderBlock block = model_->load_block(layer);
      block.pack(*backend, ComputeType::kF32);
      BlockForwardOptions options;
      options.sequence_length = windows_.seqlen;
      options.observer = layer == last ? &observer : nullptr;
      options.observe_only = layer == last;
      block.forward(*backend, ropes, hidden.view(), options);
    }
    // Without an MLP's output all MLPs are experts; a layer may also be a mixer or an MLP alone.
    std::vector<LinearInput> inputs;
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      if (expected_.has(std::string(name_of(input)))) inputs.push_back(input);
    }
    EXPECT_GE(inputs.size(), 2u);
    EXPECT_EQ(seen, inputs);
  }
}

// Both sequences in lockstep, appended in chunks of these lengths, over and over.
void check_generation(const Model& model, const Backend& backend, const TokenWindows& windows,
                      const Matrix& expected, const std::vector<std::int64_t>& lengths) {
  const std::int64_t num_sequences = windows.num_windows();
  Generator generator(model, backend, ComputeType::kF32, num_sequences, windows.seqlen);
  for (int pass = 0; pass < 2; ++pass) {
    generator.restart();
    for (std::size_t i = 0; generator.position() < windows.seqlen; ++i) {
      const std::int64_t position = generator.position();
      const std::int64_t length = std::min(lengths[i % lengths.size()], windows.seqlen - position);
      std::vector<std::int32_t> ids;
      for (std::int64_t s = 0; s < num_sequences; ++s) {
        const auto part =
            windows.window(s).subspan(static_cast<std::size_t>(position), static_cast<std::size_t>(length));
        ids.insert(ids.end(), part.begin(), part.end());
      }
      const ConstMatrixView found = generator.append(ids);
      EXPECT_LE(max_difference(found, rows_at(expected, num_sequences, position + length - 1).view()),
                kTolerance)
          << "position " << position + length - 1;
    }
  }
}

TEST_P(FamilyTest, CachedGenerationOneByOne) {
  check_generation(*model_, *cpu_, windows_, logits_, {1});
  check_generation(*model_, *reference_, windows_, logits_, {1});
}

TEST_P(FamilyTest, CachedGenerationInChunks) {
  check_generation(*model_, *cpu_, windows_, logits_, {7, 1, 3});
  check_generation(*model_, *cpu_, windows_, logits_, {windows_.seqlen});
}

TEST_P(FamilyTest, WrittenAndReadBack) {
  const test::TempDir dir;
  const Checkpoint& source = model_->checkpoint();
  CheckpointWriter writer(dir.path() / "copy", plan_like(source));
  std::set<std::string> of_blocks;
  for (std::int64_t layer = 0; layer < model_->config().num_layers(); ++layer) {
    const DecoderBlock block = model_->load_block(layer);
    for (const BlockLinear& linear : block.linears()) {
      writer.write(linear.tensors.name + ".weight", linear.weight.values());
      of_blocks.insert(linear.tensors.name + ".weight");
    }
  }
  for (const TensorInfo& tensor : source.tensors()) {
    if (!of_blocks.contains(tensor.name)) writer.write_bytes(tensor.name, source.bytes(tensor));
  }
  writer.copy_other_files(source, std::vector<std::string>{"expected.safetensors"});
  writer.finish();

  const auto copy = Model::open(dir.path() / "copy");
  EXPECT_EQ(max_difference(test::logits_of(*copy, *cpu_, windows_).view(),
                           test::logits_of(*model_, *cpu_, windows_).view()),
            0.0);
}

TEST_P(FamilyTest, EveryTensorOfABlockIsNamed) {
  for (std::int64_t layer = 0; layer < model_->config().num_layers(); ++layer) {
    const BlockConfig& block = model_->config().blocks[static_cast<std::size_t>(layer)];
    const std::vector<std::string> names = model_->block_tensors(layer);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
    // The rest of the block's folder of names is empty: nothing of the file was overlooked.
    const std::string first = linears_of(block).front().name;
    const std::string number = fmt::format(".{}.", layer);
    const std::string prefix = first.substr(0, first.find(number) + number.size());
    for (const TensorInfo& tensor : model_->checkpoint().tensors()) {
      if (tensor.name.starts_with(prefix)) {
        EXPECT_THAT(names, ::testing::Contains(tensor.name));
      }
    }
  }
}

// A file saved from the base model lacks the "model." of the causal model.
TEST_P(FamilyTest, NamesOfTheBaseModelAreUnderstood) {
  const nlohmann::json& config = model_->checkpoint().config();
  if (model_->config().has_experts() || text_tower_of(config) != nullptr) return;
  const std::string body = model_->config().embedding.substr(0, model_->config().embedding.find('.') + 1);
  std::vector<TensorInfo> tensors = model_->checkpoint().tensors();
  for (TensorInfo& tensor : tensors) {
    if (tensor.name.starts_with(body)) tensor.name.erase(0, body.size());
  }
  unify_names(config, "folder", tensors);
  for (const TensorInfo& tensor : tensors) {
    EXPECT_NE(model_->checkpoint().find(tensor.name), nullptr) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyTest, ::testing::ValuesIn(all_model_names()),
                         [](const auto& test) { return test.param; });

TEST(Families, EachHasATinyModel) {
  std::set<std::string> tested;
  for (const std::string& name : all_model_names())
    tested.insert(Model::open(model_folder(name))->config().family);
  for (const ModelFamily& family : all_families()) {
    EXPECT_THAT(tested, ::testing::Contains(std::string(family.name)));
  }
}

}  // namespace
}  // namespace swiftprune
