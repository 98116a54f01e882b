#include "python_errors.h"

#include <new>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "swiftprune/core/error.h"
#include "swiftprune/core/internal_error.h"

namespace nb = nanobind;

namespace swiftprune::python {
namespace {

const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return "UsageError";
    case ErrorKind::kBadInput:
      return "InputError";
    case ErrorKind::kDevice:
      return "DeviceError";
    case ErrorKind::kGate:
      return "GateError";
    case ErrorKind::kFailure:
    case ErrorKind::kInterrupted:  // is Python's own
      break;
  }
  return "Error";
}

void set_error(const char* name, const char* message) {
  const nb::object type = nb::module_::import_("swiftprune.errors").attr(name);
  PyErr_SetString(type.ptr(), message);
}

}  // namespace

void set_python_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kInterrupted)
      PyErr_SetString(PyExc_KeyboardInterrupt, e.what());
    else
      set_error(name_of(e.kind()), e.what());
  } catch (const InternalError& e) {
    set_error("InternalError", e.what());
  } catch (const CLI::Error& e) {
    set_error("UsageError", e.what());
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "out of memory; use fewer windows or a shorter seqlen");
  } catch (const std::exception& e) {
    set_error("Error", e.what());
  }
}

void add_errors() {
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const Error&) {
    } catch (const InternalError&) {
    }  // others are nanobind's
    set_python_error(error);
  });
}

}  // namespace swiftprune::python
