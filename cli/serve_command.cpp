// swiftprune serve: a model behind an OpenAI-compatible HTTP endpoint.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>

#include <fmt/format.h>

#include "command.h"
#include "machine.h"
#include "model_text.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/helper_threads.h"
#include "swiftprune/model/end_tokens.h"
#include "swiftprune/serving/chat_page.h"
#include "swiftprune/serving/server.h"

namespace swiftprune::cli {
namespace {

struct ServeFlags {
  CommonOptions common;
  std::string model, adapter;
  std::string compute = "auto";
  std::int64_t lanes = 8;
  DeviceFlags device;
  LoadOptions load{.tune = true, .long_lived = true};
  bool prompt_given = false, tokens_given = false;
  std::string max_body = "1MB";
  std::string cache_memory;  // empty: default_cache_memory()
  std::string api_key_file;
  bool no_page = false;
  std::int64_t timeout = 300;
  ServerOptions server;
};

// Defaults are cut to the positions that the model has: two thirds of them for prompts, where both are too
// many. What was asked for is refused above them.
void fit_limits(const ServeFlags& flags, const Model& model, ApiLimits& limits) {
  const std::int64_t positions = model.config().max_positions;
  if (!flags.prompt_given && !flags.tokens_given) {
    limits.max_prompt_tokens =
        std::min(limits.max_prompt_tokens, std::max<std::int64_t>(1, positions * 2 / 3));
    limits.max_tokens = std::min(limits.max_tokens, positions - limits.max_prompt_tokens);
  } else if (!flags.prompt_given) {
    limits.max_prompt_tokens =
        std::clamp<std::int64_t>(positions - limits.max_tokens, 1, limits.max_prompt_tokens);
  } else if (!flags.tokens_given) {
    limits.max_tokens = std::clamp<std::int64_t>(positions - limits.max_prompt_tokens, 1, limits.max_tokens);
  }
  limits.capacity = limits.max_prompt_tokens + limits.max_tokens;
  model.check_length(limits.capacity, "--max-prompt and --max-tokens");
}

// Where caches take the program's memory, half of what is available: models are mapped files, whose pages others may need.
std::uint64_t default_cache_memory(const Device& device) {
  constexpr double kPart = 0.5;
  if (device.memory_for_run() > 0) return 0;
  return static_cast<std::uint64_t>(kPart * read_memory().available);
}

// Requests that would not fit even alone are refused when they come.
void fit_memory(const SequenceEngine& engine, const Device& device, ApiLimits& limits) {
  if (engine.capacity() >= limits.capacity) return;
  limits.capacity = engine.capacity();
  limits.memory_option = device.memory_for_run() > 0 ? "--gpu-memory or --cache-memory" : "--cache-memory";
}

void say_listening(const ServeFlags& flags, int port) {
  const ServerOptions& options = flags.server;
  if (flags.common.json) {
    print_json({{"model", options.model_name},
                {"host", options.host},
                {"port", port},
                {"max_prompt_tokens", options.limits.max_prompt_tokens},
                {"max_tokens", options.limits.max_tokens}});
    std::fflush(stdout);
  }
  if (flags.common.quiet) return;
  fmt::print(stderr,
             "{} at http://{}:{}{}: prompts of up to {} tokens, answers of up to {}\n"
             "Try: curl http://{}:{}/v1/completions -H 'Content-Type: application/json' "
             "-d '{{\"prompt\": \"The sun is\", \"max_tokens\": 20}}'\n",
             options.model_name, options.host, port, options.page ? "/ (a chat page in the browser)" : "",
             options.limits.max_prompt_tokens, options.limits.max_tokens, options.host, port);
}

void run(ServeFlags& flags) {
  const RunScope job = apply(flags.common);
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, flags.model, flags.adapter);
  device->check_model(*model);
  const auto tokenizer = Tokenizer::open(flags.model);
  ServerOptions& options = flags.server;
  fit_limits(flags, *model, options.limits);
  print_notes(flags.common, generation_notes(*model, options.limits.capacity));
  options.max_body_bytes = static_cast<std::size_t>(parse_bytes("--max-body", flags.max_body));
  options.page = !flags.no_page;
  while (options.beside.ends_with('/')) options.beside.pop_back();
  if (!options.beside.empty()) check_origin("--beside", options.beside);
  if (!flags.api_key_file.empty()) options.api_keys = read_api_keys(flags.api_key_file);
  options.scheduler.timeout = std::chrono::seconds(flags.timeout);
  if (options.model_name.empty()) options.model_name = model_name(flags.model);
  if (!flags.common.quiet) fmt::print(stderr, "loading {}\n", as_given(flags.common, flags.model));
  options.scheduler.prefill_chunk = device->prefill_chunk();
  flags.load.cache_bytes = flags.cache_memory.empty() ? default_cache_memory(*device)
                                                      : parse_bytes("--cache-memory", flags.cache_memory);
  const auto engine = device->engine(*model, compute_by_name(flags.compute, *device), flags.lanes,
                                     options.limits.capacity, flags.load);
  fit_memory(*engine, *device, options.limits);
  release_helper_threads();  // the scheduler's thread does the work now
  Server server(*model, *engine, *tokenizer, options);
  say_listening(flags, server.port());
  check_interrupt();
  {
    const std::stop_callback stop(job.context().stop, [&server] { server.stop(); });
    server.run();
  }
  if (!flags.common.quiet) fmt::print(stderr, "stopped\n");
}

void add_limit_flags(CLI::App& command, ServeFlags& flags) {
  ServerOptions& options = flags.server;
  command.add_option("--batch", flags.lanes, "Answers decoded together at most")
      ->capture_default_str()
      ->check(in_range(1, 256));
  command.add_option(
      "--cache-memory", flags.cache_memory,
      "Most memory for keys and values of all answers, such as 2GB: an answer begins when all that it "
      "may come to need can be had (default: half of what is free, on a GPU all that the model leaves)");
  command
      .add_option("--queue", options.scheduler.max_waiting,
                  "Answers that may wait beside them; more are refused with 429")
      ->capture_default_str()
      ->check(in_range(1, 4096));
  command
      .add_option("--max-per-client", options.max_per_client,
                  "Requests of one address at a time; more are refused with 429 (0: any number)")
      ->capture_default_str()
      ->check(in_range(0, 4096));
  command
      .add_option("--max-prompt", options.limits.max_prompt_tokens,
                  "Tokens of a prompt at most; less by default where the model has fewer positions")
      ->capture_default_str()
      ->each([&flags](const std::string&) { flags.prompt_given = true; })
      ->check(in_range(1, 1 << 20));
  command
      .add_option("--max-tokens", options.limits.max_tokens,
                  "Tokens of an answer at most; less by default where the model has fewer positions")
      ->capture_default_str()
      ->each([&flags](const std::string&) { flags.tokens_given = true; })
      ->check(in_range(1, 1 << 20));
  command.add_option("--max-body", flags.max_body, "Size of a request's body at most, also decompressed")
      ->capture_default_str();
  command.add_flag("!--no-reuse", options.scheduler.reuses_prompts,
                   "Read every prompt from its first token, also where an earlier one began alike");
  command.add_option("--timeout", flags.timeout, "Seconds that a request may take, waiting included")
      ->capture_default_str()
      ->check(in_range(1, 86400));
}

}  // namespace

void declare_serve(CLI::App& program) {
  auto flags = std::make_shared<ServeFlags>();
  ServerOptions& options = flags->server;
  CLI::App* command = program.add_subcommand(
      "serve", "Answer OpenAI's completion requests over HTTP, with a chat page in the browser");
  add_model_argument(*command, flags->common, "MODEL", flags->model, kAnyModelHelp)->required();
  add_adapter_flag(*command, flags->adapter);
  command
      ->add_option("--host", options.host,
                   "Address to listen on; others than loopback are open to the network")
      ->capture_default_str();
  command->add_option("--port", options.port, "Port; 0: any free one")
      ->capture_default_str()
      ->check(in_range(0, 65535));
  command->add_option("--name", options.model_name, "The model's name in answers (default: its folder's)");
  command->add_option("--chat-template", options.chat_template,
                      "Jinja file in place of the model folder's chat template");
  command->add_option("--api-key-file", flags->api_key_file,
                      "Keys, one a line: requests need one of them (Authorization: Bearer KEY)");
  command->add_option("--cors", options.cors_origin,
                      "Origin whose pages may call this server from a browser, or * for any (default: none)");
  CLI::Option* no_page = command->add_flag("--no-page", flags->no_page, "No chat page at /");
  command
      ->add_option("--beside", options.beside,
                   "Another server, http://HOST:PORT as the browser reaches it, whose answers the chat page "
                   "shows beside this one's; start it with --cors and this server's address")
      ->excludes(no_page);
  add_limit_flags(*command, *flags);
  add_compute_flag(*command, flags->compute);
  add_device_flags(*command, flags->device);
  add_load_flags(*command, flags->load);
  add_common_options(*command, flags->common);
  command->footer("Example: swiftprune serve ./SmolLM2-50.packed --port 8080");
  command->callback([flags] { run(*flags); });
}

}  // namespace swiftprune::cli
