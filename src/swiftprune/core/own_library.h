// Libraries of this program's own that are opened when they are first needed, so that one program serves machines with
// and without what they are linked to: libswiftprune_cuda.so (device/cuda_library.h) and libswiftprune_mpi.so
// (ranks/mpi_library.h). Each exports C functions, one of which tells its version: a library of another build is refused
// before anything else of it is called.
#pragma once

#include <filesystem>
#include <string_view>

#include "swiftprune/core/error.h"

namespace swiftprune {

using OwnVersionFn = const char* (*)();

struct OwnLibrary {
  std::string_view file_name;   // "libswiftprune_cuda.so"
  const char* variable;         // of the environment, which names another file
  const char* version_symbol;   // OwnVersionFn
  std::string_view flag;        // for messages: "--device"
  std::string_view code;        // "GPU code"
  std::string_view instead;     // "use --device cpu"
  bool shares_symbols = false;  // with what it opens itself, as MPI does
};

// libswiftprune.so itself: its version as it was built, which a program that meets another installation's compares with
// SWIFTPRUNE_VERSION, and its file.
std::string_view library_version();
std::filesystem::path library_file();

// Where it is looked for: the variable names the file, else it lies beside libswiftprune.so.
std::filesystem::path file_of(const OwnLibrary& library);
// Opens the file, for good. Throws Error{kDevice} naming it when it is no library, or not this build's.
void* open_own_library(const OwnLibrary& library, const std::filesystem::path& file);
// Throws Error{kDevice} where it has none.
void* symbol_of(void* opened, const OwnLibrary& library, const std::filesystem::path& file, const char* name);

}  // namespace swiftprune
