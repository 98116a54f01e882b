// swiftprune serve: a model behind an OpenAI-compatible HTTP endpoint.
#include <chrono>
#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/serving/server.h"

namespace swiftprune::cli {
namespace {

struct ServeFlags {
  CommonOptions common;
  std::string model;
  std::string compute = "auto";
  std::int64_t lanes = 8;
  DeviceFlags device;
  bool compact = false;
  std::string max_body = "1MB";
  std::int64_t timeout = 300;
  ServerOptions server;
};

void run(ServeFlags& flags) {
  const RunScope job = apply(flags.common);
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, flags.model);
  device->check_model(*model);
  const auto tokenizer = Tokenizer::open(flags.model);
  ServerOptions& options = flags.server;
  options.limits.capacity = options.limits.max_prompt_tokens + options.limits.max_tokens;
  model->check_length(options.limits.capacity, "--max-prompt and --max-tokens");
  options.max_body_bytes = static_cast<std::size_t>(parse_bytes("--max-body", flags.max_body));
  options.scheduler.timeout = std::chrono::seconds(flags.timeout);
  if (options.model_name.empty())
    options.model_name = std::filesystem::absolute(flags.model).lexically_normal().filename();
  options.scheduler.prefill_chunk = device->prefill_chunk();
  const auto engine =
      device->engine(*model, parse_compute(flags.compute, *device), flags.lanes, options.limits.capacity,
                     {.tune = true, .compact = flags.compact, .long_lived = true});
  Server server(model->checkpoint().folder(), *engine, *tokenizer, options);
  if (!flags.common.quiet) {
    fmt::print(
        stderr,
        "{} at http://{}:{}\nTry: curl http://{}:{}/v1/completions -H 'Content-Type: application/json' "
        "-d '{{\"prompt\": \"The sun is\", \"max_tokens\": 20}}'\n",
        options.model_name, options.host, server.port(), options.host, server.port());
  }
  check_interrupt();
  const std::stop_callback stop(job.context().stop, [&server] { server.stop(); });
  server.run();
}

}  // namespace

void declare_serve(CLI::App& program) {
  auto flags = std::make_shared<ServeFlags>();
  ServerOptions& options = flags->server;
  CLI::App* command = program.add_subcommand("serve", "Answer OpenAI's completion requests over HTTP");
  command->add_option("MODEL", flags->model, "Hugging Face model folder, dense or packed")->required();
  command
      ->add_option("--host", options.host,
                   "Address to listen on; others than loopback are open to the network")
      ->capture_default_str();
  command->add_option("--port", options.port, "Port; 0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  command->add_option("--name", options.model_name, "The model's name in answers (default: its folder's)");
  command->add_option("--batch", flags->lanes, "Requests decoded together")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  command
      ->add_option("--queue", options.scheduler.max_waiting,
                   "Requests that may wait; more are refused with 429")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("--max-prompt", options.limits.max_prompt_tokens, "Tokens of a prompt at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--max-tokens", options.limits.max_tokens, "Tokens of an answer at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--max-body", flags->max_body, "Size of a request's body at most")
      ->capture_default_str();
  command->add_option("--timeout", flags->timeout, "Seconds that a request may take, waiting included")
      ->capture_default_str()
      ->check(CLI::Range(1, 86400));
  add_compute_flag(*command, flags->compute);
  add_device_flags(*command, flags->device);
  add_compact_flag(*command, flags->compact);
  add_common_options(*command, flags->common);
  command->footer("Example: swiftprune serve ./SmolLM2-50.packed --port 8080");
  command->callback([flags] { run(*flags); });
}

}  // namespace swiftprune::cli
