// swiftprune generate: continues a prompt.
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/api/text_generator.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/end_tokens.h"

namespace swiftprune::cli {
namespace {

struct GenerateOptions {
  CommonOptions common;
  std::string model, adapter;
  std::string prompt;
  bool chat = false;
  std::string system;
  std::int64_t max_tokens = 128;
  SamplerOptions sampler;
  std::string compute = "f32";
  DeviceFlags device;
  LoadOptions load{.tune = true};
};

// The prompt's ids: as it stands, or as the one message of a conversation that the model's chat template
// writes.
std::vector<std::int32_t> prompt_ids(const GenerateOptions& options, TextWriter& writer) {
  if (!options.chat) {
    if (!options.common.quiet && !options.common.json && writer.chat() != nullptr)
      fmt::print(stderr, "hint: this model has a chat template; --chat asks it as in a conversation\n");
    return writer.prompt(options.prompt);
  }
  templates::ChatRequest request;
  if (!options.system.empty()) request.messages.push_back(templates::chat_message("system", options.system));
  request.messages.push_back(templates::chat_message("user", options.prompt));
  return writer.prompt(request);
}

void run(const GenerateOptions& options) {
  const RunScope job = apply(options.common);
  if (!options.system.empty() && !options.chat) bad_usage("--system: is part of a conversation; add --chat");
  const auto device = open_device(options.device);
  TextWriter writer(options.model, *device, compute_by_name(options.compute, *device), options.load,
                    options.adapter);
  print_notes(options.common, writer.model().notes());
  print_notes(options.common, generation_notes(writer.model()));
  const std::vector<std::int32_t> prompt = prompt_ids(options, writer);

  Writing writing = writer.write(prompt, {.max_tokens = options.max_tokens, .sampler = options.sampler});
  // Behind the progress of loading, which the first token takes.
  bool begun = options.common.json;
  const auto begin = [&] {
    if (std::exchange(begun, true)) return;
    clear_progress();
    if (!options.chat) fmt::print("{}", options.prompt);
  };
  // An incomplete character at the end is not for the terminal.
  const GeneratedText written = write_to_end(writing, [&](std::string_view piece) {
    if (options.common.json) return;
    begin();
    fmt::print("{}", piece);
    std::fflush(stdout);
  });
  begin();
  if (options.common.json) {
    print_json({{"prompt", options.prompt},
                {"text", written.text},
                {"prompt_tokens", written.prompt_tokens},
                {"tokens", written.num_tokens},
                {"stop", written.stopped_by},
                {"prefill_seconds", written.prefill_seconds},
                {"decode_seconds", written.decode_seconds},
                {"decode_tokens_per_second", written.decode_tokens_per_second()}});
    return;
  }
  fmt::print("\n");
  std::fflush(stdout);  // before what goes to standard error
  if (!options.common.quiet) {
    fmt::print(stderr, "{} tokens in {:.2f} s: {:.1f} tokens/s (prompt: {} tokens in {:.2f} s)\n",
               written.num_tokens, written.decode_seconds, written.decode_tokens_per_second(),
               written.prompt_tokens, written.prefill_seconds);
  }
}

}  // namespace

void declare_generate(CLI::App& program) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = program.add_subcommand("generate", "Continue a prompt");
  add_model_argument(*command, options->common, "MODEL", options->model, kModelHelp)->required();
  add_adapter_flag(*command, options->adapter);
  command->add_option("-p,--prompt", options->prompt, "Text to continue")->required();
  command->add_flag("--chat", options->chat,
                    "The prompt is a message, asked through the model's chat template");
  command->add_option("--system", options->system, "System message of --chat");
  command->add_option("-n,--max-tokens", options->max_tokens, "Tokens at most")
      ->capture_default_str()
      ->check(within(option_values::kNewTokens));
  add_sampler_flags(*command, options->sampler);
  command->add_option("--seed", options->sampler.seed, "Seed of the draws")->capture_default_str();
  add_compute_flag(*command, options->compute);
  add_device_flags(*command, options->device);
  add_load_flags(*command, options->load);
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune generate ./SmolLM2-135M --prompt \"The sun is\" --max-tokens 40");
  command->callback([options] { run(*options); });
}

}  // namespace swiftprune::cli
