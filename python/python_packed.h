// What swiftprune/transformers_bridge.py is made of: the tensors of a folder, and products with packed ones.
#pragma once

#include <nanobind/nanobind.h>

namespace swiftprune::python {

void add_packed(nanobind::module_& module);

}  // namespace swiftprune::python
