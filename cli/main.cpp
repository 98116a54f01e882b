#include "program.h"
#include "signals.h"

int main(int argc, char** argv) {
  swiftprune::cli::watch_signals();
  return swiftprune::cli::run_program(argc, argv);
}
