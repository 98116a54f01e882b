// swiftprune chat: a conversation in the terminal.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "line_reader.h"
#include "model_text.h"
#include "signals.h"
#include "swiftprune/api/text_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/end_tokens.h"
#include "terminal_lines.h"

namespace swiftprune::cli {
namespace {

struct ChatOptions {
  CommonOptions common;
  std::string model, adapter;
  std::string system;
  std::string chat_template;
  std::int64_t max_tokens = 1024;
  SamplerOptions sampler = {.temperature = 0.7};
  bool seed_given = false;
  std::string compute = "f32";
  DeviceFlags device;
  LoadOptions load{.tune = true};
};

constexpr std::string_view kHelp =
    "/reset forgets the conversation, /system TEXT sets the system message and forgets it, too,\n"
    "/exit and Ctrl-D end, Ctrl-C stops an answer, /help shows this. A line that ends with \\ goes on\n"
    "in the next one; // begins a message with a slash.\n";

// Ctrl-C stops the answer that is being written. Where none is, it stops the program, but at a terminal it only begins a
// new line.
class AnswerStop {
 public:
  explicit AnswerStop(TerminalLines* typed)
      : taker_([this, typed] {
          const std::lock_guard lock(mutex_);
          if (current_) {
            current_->request_stop();
            return true;
          }
          if (typed != nullptr) typed->drop_line();
          return typed != nullptr;
        }) {}

  std::stop_token begin() {
    const std::lock_guard lock(mutex_);
    return current_.emplace().get_token();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    current_.reset();
  }
  void request_stop() {
    const std::lock_guard lock(mutex_);
    if (current_) current_->request_stop();
  }

 private:
  std::mutex mutex_;
  std::optional<std::stop_source> current_;
  InterruptTaker taker_;  // last: the first to go
};

struct Message {
  std::string role, content;
};

class Chat {
 public:
  Chat(const ChatOptions& options, const RunScope& job, TextWriter& writer)
      : options_(options),
        job_(job),
        writer_(writer),
        stop_(is_typed(options.common) ? &typed_.emplace("(/exit or Ctrl-D ends)\n") : nullptr) {
    if (!options.system.empty()) messages_.push_back({"system", options.system});
  }

  void run() {
    if (typed_) fmt::print(stderr, "{}, {} positions.\n{}", model_name(options_.model), positions(), kHelp);
    while (const std::optional<std::string> line = next_message()) {
      if (line->empty()) continue;
      if (line->starts_with('/') && !line->starts_with("//")) {
        if (!obey(*line)) break;
        continue;
      }
      answer(line->substr(line->starts_with('/') ? 1 : 0));
    }
    if (options_.common.json) print_json(document());
  }

 private:
  std::int64_t positions() const { return writer_.model().config().max_positions; }

  static bool is_typed(const CommonOptions& common) {
    return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1 && !common.quiet && !common.json;
  }

  // Lines that end with a backslash are one message.
  std::optional<std::string> next_message() {
    std::string message;
    for (const char* prompt = "> ";; prompt = "  ") {
      std::optional<std::string> line = typed_ ? typed_->next(prompt) : lines_.next();
      if (!line) {
        if (typed_) fmt::print(stderr, "\n");
        return message.empty() ? std::nullopt : std::optional(message);
      }
      const bool goes_on = line->ends_with('\\');
      if (goes_on) line->back() = '\n';
      message += *line;
      if (!goes_on) return message;
    }
  }

  // False: the end.
  bool obey(const std::string& line) {
    const std::size_t space = line.find(' ');
    const std::string command = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (command == "/exit" || command == "/quit" || command == "/bye") return false;
    if (command == "/help") {
      say(std::string(kHelp));
    } else if (command == "/reset") {
      std::erase_if(messages_, [](const Message& message) { return message.role != "system"; });
      say("a new conversation\n");
    } else if (command == "/system") {
      messages_.clear();
      if (!rest.empty()) messages_.push_back({"system", rest});
      say(rest.empty() ? "a new conversation without a system message\n"
                       : "a new conversation with this system message\n");
    } else {
      print_note(options_.common, fmt::format("{}: no such command; /help lists them", command));
    }
    return true;
  }

  void say(const std::string& text) const {
    if (!options_.common.quiet && !options_.common.json) fmt::print(stderr, "{}", text);
  }

  std::vector<std::int32_t> prompt() {
    templates::ChatRequest request;
    for (const Message& message : messages_)
      request.messages.push_back(templates::chat_message(message.role, message.content));
    return writer_.prompt(request);
  }

  // What goes wrong with one message (a template that refuses it, a conversation that is too long) does not end the
  // conversation: the message is taken back.
  void answer(const std::string& text) {
    messages_.push_back({"user", text});
    std::vector<std::int32_t> ids;
    try {
      ids = prompt();
      const std::int64_t room = positions() - std::ssize(ids);
      if (room < 1) {
        bad_input("the conversation has {} tokens, and the model {} positions; /reset begins a new one",
                  ids.size(), positions());
      }
      write(ids, std::min(room, options_.max_tokens));
    } catch (const Interrupted&) {
      throw;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadInput && error.kind() != ErrorKind::kUsage) throw;
      messages_.pop_back();
      if (options_.common.json) answers_.push_back({{"error", error.what()}});
      fmt::print(stderr, "swiftprune: {}\n", error.what());
    }
  }

  void write(const std::vector<std::int32_t>& ids, std::int64_t max_tokens) {
    std::string text;
    bool cancelled = false;
    std::optional<Writing> writing;
    SamplerOptions sampler = options_.sampler;
    sampler.seed += answers_begun_++;
    {
      const RunScope scope({stop_.begin(), job_.context().progress, job_.context().threads});
      const std::stop_callback program(job_.context().stop, [this] { stop_.request_stop(); });
      try {
        writing.emplace(writer_.write(ids, {.max_tokens = max_tokens, .sampler = sampler, .goes_on = true}));
        while (const auto piece = writing->next()) {
          text += *piece;
          show(*piece);
          check_interrupt();
        }
      } catch (const Interrupted&) {
        cancelled = true;
      }
      stop_.end();
    }
    if (job_.context().stop.stop_requested()) throw Interrupted();
    if (writing) text += writing->rest();
    show("\n");
    messages_.push_back({"assistant", text});
    tell(writing, text, cancelled, std::ssize(ids));
  }

  void show(const std::string& piece) const {
    if (options_.common.json) return;
    clear_progress();
    fmt::print("{}", piece);
    std::fflush(stdout);
  }

  void tell(const std::optional<Writing>& writing, const std::string& text, bool cancelled,
            std::int64_t prompt_tokens) {
    const std::int64_t tokens = writing ? writing->num_tokens() : 0;
    const double seconds = writing ? writing->decode_seconds() : 0.0;
    const double rate = static_cast<double>(tokens) / std::max(1e-9, seconds);
    const std::string_view stop = cancelled ? "cancelled" : writing->stopped_by();
    if (options_.common.json) {
      answers_.push_back({{"text", text},
                          {"stop", stop},
                          {"prompt_tokens", prompt_tokens},
                          {"cached_tokens", writing ? writing->cached_tokens() : 0},
                          {"tokens", tokens},
                          {"decode_tokens_per_second", rate}});
      return;
    }
    std::string more = cancelled ? "; stopped" : "";
    if (stop == "length") more = "; cut at the most tokens (-n)";
    say(fmt::format("[{} tokens, {:.1f} tokens/s{}]\n", tokens, rate, more));
  }

  nlohmann::ordered_json document() const {
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    for (const Message& message : messages_)
      messages.push_back({{"role", message.role}, {"content", message.content}});
    return {
        {"model", as_given(options_.common, options_.model)}, {"messages", messages}, {"answers", answers_}};
  }

  const ChatOptions& options_;
  const RunScope& job_;
  TextWriter& writer_;
  std::optional<TerminalLines> typed_;  // at a terminal
  AnswerStop stop_;
  LineReader lines_;
  std::vector<Message> messages_;
  std::uint64_t answers_begun_ = 0;
  nlohmann::ordered_json answers_ = nlohmann::ordered_json::array();
};

void run(ChatOptions& options) {
  const RunScope job = apply(options.common);
  const auto device = open_device(options.device);
  if (!options.seed_given) options.sampler.seed = std::random_device{}();
  TextWriter writer(options.model, *device, compute_by_name(options.compute, *device), options.load,
                    options.adapter);
  print_notes(options.common, writer.model().notes());
  print_notes(options.common, generation_notes(writer.model()));
  if (!options.chat_template.empty()) writer.use_chat_template(options.chat_template);
  if (writer.chat() == nullptr) {
    bad_input(
        "{}: found no chat template, which a conversation needs; give one with --chat-template, or use "
        "generate",
        as_given(options.common, options.model));
  }
  Chat(options, job, writer).run();
}

}  // namespace

void declare_chat(CLI::App& program) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = program.add_subcommand("chat", "Talk with a model in the terminal");
  add_model_argument(*command, options->common, "MODEL", options->model, kAnyModelHelp)->required();
  add_adapter_flag(*command, options->adapter);
  command->add_option("--system", options->system, "System message");
  command->add_option("--chat-template", options->chat_template,
                      "Jinja file in place of the model folder's chat template");
  command->add_option("-n,--max-tokens", options->max_tokens, "Tokens of an answer at most")
      ->capture_default_str()
      ->check(within(option_values::kNewTokens));
  add_sampler_flags(*command, options->sampler);
  command->add_option("--seed", options->sampler.seed, "Seed of the draws (default: drawn anew)")
      ->each([options](const std::string&) { options->seed_given = true; });
  add_compute_flag(*command, options->compute);
  add_device_flags(*command, options->device);
  add_load_flags(*command, options->load);
  add_common_options(*command, options->common);
  command->footer(
      fmt::format("Messages are lines of standard input, also from a pipe.\n{}"
                  "Example: swiftprune chat ./SmolLM2-135M-Instruct --system \"Answer in one sentence.\"",
                  kHelp));
  command->callback([options] { run(*options); });
}

}  // namespace swiftprune::cli
