// Errors of the library as exceptions of the package (swiftprune/errors.py).
#pragma once

#include <exception>

#include <nanobind/nanobind.h>

namespace swiftprune::python {

// Sets the Python exception for what was thrown; the GIL must be held. ErrorKind::kInterrupted is a KeyboardInterrupt.
void set_python_error(const std::exception_ptr& error);
// Does so for all functions of the module.
void add_errors();

}  // namespace swiftprune::python
