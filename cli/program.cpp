#include "program.h"

#include <cerrno>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "colour.h"
#include "command.h"
#include "config_file.h"
#include "log_file.h"
#include "ranks.h"
#include "signals.h"
#include "swiftprune/core/internal_error.h"
#include "usage_message.h"
#include "version.h"

namespace swiftprune::cli {
namespace {

constexpr int kInternalError = 70;  // EX_SOFTWARE of sysexits.h
constexpr const char* kLostOutput = "standard output: cannot be written; is the disk full?";

int complain(int exit_code, const std::string& message) {
  clear_progress();
  fmt::print(stderr, "{} {}\n", coloured(stderr, Colour::kRed, "swiftprune:"), message);
  log_line(fmt::format("swiftprune: {}", message));
  return exit_code;
}

bool asks_version_as_json(const std::vector<std::string>& given) {
  return given.size() == 2 && (given.front() == "--version" || given.front() == "-V") &&
         given.back() == "--json";
}

int run_command(int argc, char** argv) {
  std::unique_ptr<CLI::App> program;
  std::vector<std::string> given(argv + 1, argv + argc);
  try {
    check_library();
    program = make_program();  // asks the processor and so the environment, which may be wrong
    given = with_help_words(*program, std::move(given));
    if (asks_version_as_json(given)) {
      print_json(version_json());
      return 0;
    }
    const std::vector<std::string> arguments = with_config(given);
    program->name(argv[0]);
    program->parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program->exit(error);  // prints help or version
    if (given.empty()) fmt::print(stderr, "{}\n", program->help());
    return complain(static_cast<int>(ErrorKind::kUsage), usage_message(*program, given, error));
  } catch (const RanksEnded& ended) {
    return ended.exit_code();
  } catch (...) {
    return exit_code_of(std::current_exception(), "");
  }
}

}  // namespace

int exit_code_of(const std::exception_ptr& thrown, const std::string& prefix, bool tells_interrupt) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInterrupted) {
      const int code = 128 + stopping_signal();
      return tells_interrupt ? complain(code, prefix + error.what()) : code;
    }
    return complain(static_cast<int>(error.kind()), prefix + with_files_named(error.what()));
  } catch (const InternalError& error) {
    return complain(kInternalError, prefix + error.what());
  } catch (const std::bad_alloc&) {
    return complain(1, prefix + "out of memory; use fewer --windows or a shorter --seqlen");
  } catch (const std::exception& error) {
    return complain(1, prefix + (std::ferror(stdout) != 0 ? kLostOutput : error.what()));
  }
}

int run_program(int argc, char** argv) {
  const int exit_code = run_command(argc, argv);
  log_line(fmt::format("ends with exit code {}", exit_code));
  // A result that did not reach its file (a full disk) is no success.
  bool lost = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (std::fclose(stdout) != 0) lost = lost || errno != EBADF;  // closed from the start: nothing was wanted
  return lost && exit_code == 0 ? complain(1, kLostOutput) : exit_code;
}

}  // namespace swiftprune::cli
