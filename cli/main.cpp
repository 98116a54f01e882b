// Finds the command and maps errors to exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 device, 5 gate.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "command.h"
#include "swiftprune/core/error.h"

int main(int argc, char** argv) {
  using namespace swiftprune;
  std::signal(SIGINT, [](int) { request_interrupt(); });
  std::signal(SIGTERM, [](int) { request_interrupt(); });

  CLI::App program{"swiftprune: makes a language model smaller and faster, on the machine you have"};
  program.set_version_flag("--version", std::string("swiftprune ") + SWIFTPRUNE_VERSION);
  program.require_subcommand(1);
  program.footer("Every command has --help with an example. Start: swiftprune inspect MODEL");
  for (auto* declare : {cli::declare_import, cli::declare_inspect, cli::declare_prune, cli::declare_eval,
                        cli::declare_compare, cli::declare_pilot, cli::declare_generate, cli::declare_bench,
                        cli::declare_serve, cli::declare_tokenize, cli::declare_verify, cli::declare_pack,
                        cli::declare_unpack}) {
    declare(program);
  }
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : static_cast<int>(ErrorKind::kUsage);
  } catch (const Error& error) {
    fmt::print(stderr, "swiftprune: {}\n", error.what());
    return static_cast<int>(error.kind());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "swiftprune: out of memory; use fewer --windows or a shorter --seqlen\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "swiftprune: {}\n", error.what());
    return 1;
  }
}
