// What this machine has left, for commands that tell it.
#pragma once

#include <filesystem>
#include <string>

namespace swiftprune::cli {

struct Memory {
  double total = 0.0, available = 0.0;  // bytes; 0: not known
};
Memory read_memory();

// On the disk of this folder, or of the nearest one above that exists; 0: not known.
double free_bytes(const std::filesystem::path& folder);

// The most memory that this process has had so far, bytes. Pages of mapped files count.
double peak_memory();

// Of the last minute.
double load_average();
// That other work takes so much of the processor that timings mean little; "" where it does not.
std::string busy_note(double load, int threads);

}  // namespace swiftprune::cli
