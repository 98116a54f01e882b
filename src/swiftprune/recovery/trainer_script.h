// trainer.py as text, put into the library when it is built, so that every way of installing has it.
#pragma once

#include <string_view>

namespace swiftprune {

extern const std::string_view kTrainerScript;

}  // namespace swiftprune
