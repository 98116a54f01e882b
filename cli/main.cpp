#include "program.h"
#include "signals.h"
#include "waiting.h"

int main(int argc, char** argv) {
  swiftprune::cli::bound_spinning(argv);
  swiftprune::cli::watch_signals();
  swiftprune::cli::watch_lost_files();
  return swiftprune::cli::run_program(argc, argv);
}
