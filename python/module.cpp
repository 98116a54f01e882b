// swiftprune._swiftprune: the commands and a model that writes, for Python. The package beside it (swiftprune/)
// gives them names, types and documentation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "command.h"
#include "command_run.h"
#include "option_table.h"
#include "program.h"
#include "python_errors.h"
#include "python_model.h"
#include "python_packed.h"
#include "signals.h"
#include "version.h"

namespace nb = nanobind;

namespace swiftprune::python {
namespace {

// As the program of that name: for the entry point that pip installs.
int run_main(const std::vector<std::string>& arguments) {
  std::vector<std::string> copies = arguments;
  std::vector<char*> pointers;
  for (std::string& argument : copies) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const nb::gil_scoped_release released;
  cli::watch_signals();
  return cli::run_program(static_cast<int>(arguments.size()), pointers.data());
}

}  // namespace

NB_MODULE(_swiftprune, module) {
  module.def("version", [] { return std::string(SWIFTPRUNE_VERSION); });
  module.def("version_text", &cli::version_text);
  module.def("main", &run_main);
  module.def("option_table", [] { return cli::option_table(*cli::make_program()).dump(); });
  module.def("run_command", &run_command, nb::arg("arguments"), nb::arg("progress").none(),
             nb::sig("def run_command(arguments: Sequence[str], progress: object | None) -> "
                     "tuple[str | None, str | None, list[str], BaseException | None]"));
  add_errors();
  add_model(module);
  add_packed(module);
}

}  // namespace swiftprune::python
