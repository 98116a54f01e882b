// prune MODEL OUT: half of the weights of every linear become zeros, two of every four, by Wanda's score on text
// that the model has never seen (token ids at random: a real program reads text).
#include <cstdio>
#include <random>

#include <swiftprune/checkpoint/checkpoint_writer.h>
#include <swiftprune/core/error.h>
#include <swiftprune/core/run_context.h>
#include <swiftprune/device/device.h>
#include <swiftprune/model/model.h>
#include <swiftprune/pipeline/checkpoint_output.h>
#include <swiftprune/pipeline/method.h>
#include <swiftprune/pipeline/plan.h>

namespace {

using namespace swiftprune;

TokenWindows random_text(const Model& model) {
  TokenWindows windows{64, {}};
  std::mt19937 random(0);
  std::uniform_int_distribution<std::int32_t> id(0, static_cast<std::int32_t>(model.config().vocab_size) - 1);
  for (int i = 0; i < 8 * 64; ++i) windows.ids.push_back(id(random));
  return windows;
}

void prune(const char* folder, const char* out) {
  const RunScope run({.progress = [](std::string_view stage, std::int64_t done, std::int64_t total) {
    fmt::print(stderr, "{} {}/{}\n", stage, done, total);
  }});
  const auto device = open_device("auto");
  const auto model = Model::open(folder);
  const Method& method = method_by_name("wanda");
  const Plan plan = uniform_plan(
      *model,
      {.pattern = parse_pattern("2:4"), .sparsity = 0.5, .score = method.n_m_score, .refine = method.refine},
      {});
  PruneOptions options;
  options.select = method.select;
  options.propagation = method.propagation;
  options.progress = run.context().progress;
  device->check_plan(*model, plan, options);

  CheckpointWriter writer(out, plan_like(model->checkpoint()));
  CheckpointOutput output(model->checkpoint(), writer);
  device->prune(*model, plan, random_text(*model), options, output);
  output.copy_rest();
  writer.copy_other_files(model->checkpoint(), {});
  writer.finish();
  fmt::print("{:.0f} % of {} linears' weights are zero: {}\n", 100.0 * plan.sparsity(), plan.entries.size(),
             out);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: {} MODEL OUT\n", argv[0]);
    return 2;
  }
  try {
    prune(argv[1], argv[2]);
    return 0;
  } catch (const swiftprune::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.kind());
  }
}
