// The logits of the first window of token ids as raw floats [seqlen, vocab], to compare with another
// program's:
//   dump_logits MODEL IDS.u16 OUT.f32 [--seqlen 2048] [--compute f32] [--adapter FOLDER]
// tools/compare_logits.py does so with transformers.
#include <fstream>

#include <CLI/CLI.hpp>

#include "swiftprune/model/forward.h"

int main(int argc, char** argv) {
  using namespace swiftprune;
  std::string folder, ids, out, adapter, compute = "f32";
  WindowOptions window;
  window.max_windows = 1;
  CLI::App app("The logits of the first window of token ids");
  app.add_option("model", folder)->required();
  app.add_option("ids", ids)->required();
  app.add_option("out", out)->required();
  app.add_option("--seqlen", window.seqlen);
  app.add_option("--compute", compute)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--adapter", adapter);
  CLI11_PARSE(app, argc, argv);
  try {
    const auto model = Model::open(folder, adapter);
    const auto backend = make_cpu_backend();
    const TokenWindows windows = windows_of_ids(read_token_ids(ids, model->config().vocab_size), ids, window);
    ForwardOptions options;
    options.compute = compute == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
    std::ofstream file(out, std::ios::binary);
    for_each_logits(*model, *backend, windows, options,
                    [&](std::int64_t, std::int64_t, ConstMatrixView logits) {
                      for (std::int64_t r = 0; r < logits.rows; ++r) {
                        file.write(reinterpret_cast<const char*>(logits.row(r)),
                                   logits.cols * static_cast<std::int64_t>(sizeof(float)));
                      }
                    });
    return file.good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
