// swiftprune.Model's inside: a model that is kept open and writes.
#pragma once

#include <nanobind/nanobind.h>

namespace swiftprune::python {

void add_model(nanobind::module_& module);

}  // namespace swiftprune::python
