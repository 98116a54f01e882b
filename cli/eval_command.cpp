// swiftprune eval: perplexity of one model on a text.
#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/evaluation/perplexity.h"

namespace swiftprune::cli {
namespace {

struct EvalOptions {
  CommonOptions common;
  std::string model;
  EvaluationText text;
  std::string compute = "f32";
  DeviceFlags device;
};

void run(const EvalOptions& options) {
  apply(options.common);
  const cuda::DeviceChoice device = cuda::choose_device(options.device.device);
  const auto backend = make_cpu_backend();
  const auto model = Model::open(options.model);
  const TokenWindows windows = evaluation_windows(*model, options.text);
  ForwardOptions forward;
  forward.compute = parse_compute(options.compute, *backend, device);
  forward.progress = terminal_progress(options.common);
  const auto start = std::chrono::steady_clock::now();
  const PerplexityResult result =
      device.use_cuda ? cuda::perplexity(*model, windows, forward, device_options(device, options.device))
                      : perplexity(*model, *backend, windows, forward);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double tokens_per_second = static_cast<double>(windows.ids.size()) / seconds;
  if (options.common.json) {
    print_json({{"model", options.model},
                {"text", options.text.file},
                {"convention", "windows"},
                {"perplexity", result.perplexity},
                {"mean_nll", result.mean_nll},
                {"tokens", result.num_tokens},
                {"windows", windows.num_windows()},
                {"seqlen", windows.seqlen},
                {"ids", windows.hash()},
                {"compute", forward.compute == ComputeType::kBF16 ? "bf16" : "f32"},
                {"device", cuda::device_name(device)},
                {"threads", num_threads()},
                {"instruction_set", isa_name()},
                {"seconds", seconds},
                {"tokens_per_second", tokens_per_second},
                {"window_nll", result.window_nll}});
    return;
  }
  fmt::print(
      "perplexity  {:.4f}   {} windows of {} tokens, next-token loss of tokens 2..{} (Hugging Face / GPTQ "
      "convention)\n",
      result.perplexity, windows.num_windows(), windows.seqlen, windows.seqlen);
  const std::string where =
      device.use_cuda ? cuda::device_name(device) : fmt::format("{} threads, {}", num_threads(), isa_name());
  fmt::print("speed       {:.0f} tokens/s   {:.1f} s, {}\n", tokens_per_second, seconds, where);
}

}  // namespace

void declare_eval(CLI::App& program) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = program.add_subcommand("eval", "Perplexity of a model on a text");
  command->add_option("MODEL", options->model, "Hugging Face model folder")->required();
  command
      ->add_option("--text,--ids", options->text.file,
                   "Text: .txt, .jsonl (see --field), or token ids as .u16 / .u32 (little endian, no header)")
      ->required();
  add_evaluation_flags(*command, options->text);
  add_compute_flag(*command, options->compute);
  add_device_flags(*command, options->device);
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune eval ./SmolLM2-135M --text wiki.txt --windows 32");
  command->callback([options] { run(*options); });
}

}  // namespace swiftprune::cli
