// The logits of the first window of token ids as raw floats [seqlen, vocab], to compare with another
// program's:
//   dump_logits MODEL IDS.u16 OUT.f32 [--seqlen 2048] [--compute f32] [--adapter FOLDER] [--cached]
// --cached: a token at a time, in a batch with another sequence that is some tokens ahead. tools/compare_logits.py and
// tools/compare_configs.py do so with transformers.
#include <fstream>

#include <CLI/CLI.hpp>

#include "swiftprune/model/forward.h"
#include "swiftprune/serving/batch_engine.h"

namespace {

using namespace swiftprune;

void write(std::ofstream& file, ConstMatrixView logits, std::int64_t first, std::int64_t last) {
  for (std::int64_t r = first; r < last; ++r) {
    file.write(reinterpret_cast<const char*>(logits.row(r)),
               logits.cols * static_cast<std::int64_t>(sizeof(float)));
  }
}

void write_cached(const Model& model, const Backend& backend, ComputeType compute,
                  std::span<const std::int32_t> ids, std::ofstream& file) {
  const auto length = std::ssize(ids), ahead = std::min<std::int64_t>(5, length - 1);
  BatchEngine engine(model, backend, compute, 2, length + ahead, nullptr);
  for (const std::int64_t lane : {0, 1})
    engine.start({.lane = lane, .source = lane, .positions = length + ahead});
  engine.prefill(1, ids.last(static_cast<std::size_t>(ahead)));
  const std::int64_t half = (length + 1) / 2;
  write(file, engine.prefill_all(0, ids.first(static_cast<std::size_t>(half))), 0, half);
  for (std::int64_t t = half; t < length; ++t) {
    const std::int32_t both[] = {ids[static_cast<std::size_t>(t)], ids[static_cast<std::size_t>(t - half)]};
    write(file, engine.decode(both), 0, 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder, ids, out, adapter, compute = "f32";
  bool cached = false;
  WindowOptions window;
  window.max_windows = 1;
  CLI::App app("The logits of the first window of token ids");
  app.add_option("model", folder)->required();
  app.add_option("ids", ids)->required();
  app.add_option("out", out)->required();
  app.add_option("--seqlen", window.seqlen);
  app.add_option("--compute", compute)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--adapter", adapter);
  app.add_flag("--cached", cached);
  CLI11_PARSE(app, argc, argv);
  try {
    const auto model = Model::open(folder, adapter);
    const auto backend = make_cpu_backend();
    const TokenWindows windows = windows_of_ids(read_token_ids(ids, model->config().vocab_size), ids, window);
    ForwardOptions options;
    options.compute = compute == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
    std::ofstream file(out, std::ios::binary);
    if (cached) {
      write_cached(*model, *backend, options.compute, windows.window(0), file);
    } else {
      for_each_logits(
          *model, *backend, windows, options,
          [&](std::int64_t, std::int64_t, ConstMatrixView logits) { write(file, logits, 0, logits.rows); });
    }
    return file.good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
