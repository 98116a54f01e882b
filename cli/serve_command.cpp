// swiftprune serve: a model behind an OpenAI-compatible HTTP endpoint.
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/serving/batch_engine.h"
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

// A GPU takes so many tokens of a prompt in little more time than a few.
constexpr std::int64_t kDevicePrefillChunk = 2048;

std::unique_ptr<SequenceEngine> load(ServeFlags& flags, const Model& model, const Backend& backend) {
  const cuda::DeviceChoice device = choose_device(flags.device);
  const ComputeType compute = parse_compute(flags.compute, backend, device);
  const std::int64_t capacity = flags.server.limits.capacity;
  if (device.use_cuda) {
    flags.server.scheduler.prefill_chunk = kDevicePrefillChunk;
    Timings timings(Timings::default_file());
    cuda::DeviceOptions on_device = device_options(device, flags.device);
    on_device.timings = &timings;
    on_device.compact = flags.compact;
    on_device.long_lived = true;
    auto engine = cuda::make_engine(model, compute, flags.lanes, capacity, on_device);
    timings.save();
    return engine;
  }
  Autotuner tuner(Autotuner::default_cache_file());
  auto engine = std::make_unique<BatchEngine>(model, backend, compute, flags.lanes, capacity, &tuner);
  tuner.save();
  return engine;
}

void run(ServeFlags& flags) {
  apply(flags.common);
  const auto backend = make_cpu_backend();
  const auto model = Model::open(flags.model);
  const auto tokenizer = Tokenizer::open(flags.model);
  ServerOptions& options = flags.server;
  options.limits.capacity = options.limits.max_prompt_tokens + options.limits.max_tokens;
  model->check_length(options.limits.capacity, "--max-prompt and --max-tokens");
  options.max_body_bytes = static_cast<std::size_t>(parse_bytes("--max-body", flags.max_body));
  options.scheduler.timeout = std::chrono::seconds(flags.timeout);
  if (options.model_name.empty())
    options.model_name = std::filesystem::absolute(flags.model).lexically_normal().filename();
  const auto engine = load(flags, *model, *backend);
  Server server(model->checkpoint().folder(), *engine, *tokenizer, options);
  if (!flags.common.quiet) {
    fmt::print(
        stderr,
        "{} at http://{}:{}\nTry: curl http://{}:{}/v1/completions -H 'Content-Type: application/json' "
        "-d '{{\"prompt\": \"The sun is\", \"max_tokens\": 20}}'\n",
        options.model_name, options.host, server.port(), options.host, server.port());
  }
  std::thread watcher([&server] {
    try {
      while (true) {
        check_interrupt();
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    } catch (const Error&) {
      server.stop();
    }
  });
  server.run();
  request_interrupt();  // when the server ended by itself
  watcher.join();
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
  command
      ->add_option("--chat-template", options.chat_template,
                   "Jinja file in place of the model folder's chat template")
      ->check(CLI::ExistingFile);
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
