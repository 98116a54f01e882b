// swiftprune generate: continues a prompt.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/end_tokens.h"
#include "swiftprune/model/sampler.h"
#include "swiftprune/templates/chat_template.h"
#include "swiftprune/text/text_stream.h"

namespace swiftprune::cli {
namespace {

struct GenerateOptions {
  CommonOptions common;
  std::string model;
  std::string prompt;
  bool chat = false;
  std::string system;
  std::int64_t max_tokens = 128;
  SamplerOptions sampler;
  std::string compute = "f32";
  DeviceFlags device;
  bool compact = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The prompt's ids: as it stands, or as the one message of a conversation that the model's chat template
// writes.
std::vector<std::int32_t> prompt_ids(const GenerateOptions& options, const Tokenizer& tokenizer) {
  if (!options.chat && (options.common.quiet || options.common.json)) return tokenizer.encode(options.prompt);
  const auto chat = templates::ChatTemplates::open(options.model);
  if (!options.chat) {
    if (chat)
      fmt::print(stderr, "hint: this model has a chat template; --chat asks it as in a conversation\n");
    return tokenizer.encode(options.prompt);
  }
  if (!chat) bad_input("{}: found no chat template, which --chat needs", options.model);
  const auto message = [](const char* role, const std::string& content) {
    templates::DictBuilder dict;
    dict.set("role", templates::Value(role));
    dict.set("content", templates::Value(content));
    return templates::Value(dict.build());
  };
  templates::ChatRequest request;
  if (!options.system.empty()) request.messages.push_back(message("system", options.system));
  request.messages.push_back(message("user", options.prompt));
  return tokenizer.encode(chat->render(request), false);
}

void run(const GenerateOptions& options) {
  const RunScope job = apply(options.common);
  if (!options.system.empty() && !options.chat) bad_usage("--system: is part of a conversation; add --chat");
  const auto device = open_device(options.device);
  const auto model = open_model(options.common, options.model);
  device->check_model(*model);
  const auto tokenizer = Tokenizer::open(options.model);
  std::vector<std::int32_t> prompt = prompt_ids(options, *tokenizer);
  if (prompt.empty()) prompt.push_back(first_token(*model));
  const auto prompt_tokens = static_cast<std::int64_t>(prompt.size());
  model->check_length(prompt_tokens + options.max_tokens, "--prompt and --max-tokens");

  const auto generator =
      device->generator(*model, parse_compute(options.compute, *device), 1,
                        prompt_tokens + options.max_tokens, {.tune = true, .compact = options.compact});
  Sampler sampler(options.sampler);
  TextStream stream(*tokenizer, prompt);
  const std::vector<std::int32_t> ends = end_tokens(*model, *tokenizer);
  std::string text;
  std::int64_t tokens = 0;
  const auto show = [&](const std::string& piece) {
    text += piece;
    if (options.common.json) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  };
  if (!options.common.json && !options.chat) fmt::print("{}", options.prompt);
  const auto start = std::chrono::steady_clock::now();
  ConstMatrixView logits = generator->append(prompt);
  const double prefill_seconds = seconds_since(start);
  std::string stop = "length";
  for (std::int64_t t = 0; t < options.max_tokens; ++t) {
    const std::int32_t id = sampler.next(logits.row_span(0));
    if (std::binary_search(ends.begin(), ends.end(), id)) {
      stop = "eos";
      break;
    }
    show(stream.add(id));
    ++tokens;
    if (t + 1 < options.max_tokens) logits = generator->append(std::vector{id});
  }
  text += stream.rest();  // an incomplete character: not for the terminal
  const double decode_seconds = seconds_since(start) - prefill_seconds;
  const double decode_rate = static_cast<double>(tokens) / std::max(1e-9, decode_seconds);
  if (options.common.json) {
    print_json({{"prompt", options.prompt},
                {"text", text},
                {"prompt_tokens", prompt_tokens},
                {"tokens", tokens},
                {"stop", stop},
                {"prefill_seconds", prefill_seconds},
                {"decode_seconds", decode_seconds},
                {"decode_tokens_per_second", decode_rate}});
    return;
  }
  fmt::print("\n");
  if (!options.common.quiet) {
    fmt::print(stderr, "{} tokens in {:.2f} s: {:.1f} tokens/s (prompt: {} tokens in {:.2f} s)\n", tokens,
               decode_seconds, decode_rate, prompt_tokens, prefill_seconds);
  }
}

}  // namespace

void declare_generate(CLI::App& program) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = program.add_subcommand("generate", "Continue a prompt");
  add_model_argument(*command, options->common, "MODEL", options->model, "Hugging Face model folder")
      ->required();
  command->add_option("-p,--prompt", options->prompt, "Text to continue")->required();
  command->add_flag("--chat", options->chat,
                    "The prompt is a message, asked through the model's chat template");
  command->add_option("--system", options->system, "System message of --chat");
  command->add_option("-n,--max-tokens", options->max_tokens, "Tokens at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--temperature", options->sampler.temperature, "0: always the likeliest token (greedy)")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command
      ->add_option("--top-p", options->sampler.top_p,
                   "Draw from the likeliest tokens that hold this probability")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1.0));
  command->add_option("--seed", options->sampler.seed, "Seed of the draws")->capture_default_str();
  add_compute_flag(*command, options->compute);
  add_device_flags(*command, options->device);
  add_compact_flag(*command, options->compact);
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune generate ./SmolLM2-135M --prompt \"The sun is\" --max-tokens 40");
  command->callback([options] { run(*options); });
}

}  // namespace swiftprune::cli
