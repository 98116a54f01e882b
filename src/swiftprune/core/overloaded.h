// One call for each alternative of a variant: std::visit(Overloaded{[](const A&) {...}, [](const B&) {...}},
// v) does not compile when one is missing.
#pragma once

namespace swiftprune {

template <class... Calls>
struct Overloaded : Calls... {
  using Calls::operator()...;
};

}  // namespace swiftprune
