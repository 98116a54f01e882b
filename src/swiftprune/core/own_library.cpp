#include "swiftprune/core/own_library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace swiftprune {
namespace fs = std::filesystem;

std::string_view library_version() { return SWIFTPRUNE_VERSION; }

fs::path library_file() {
  Dl_info here{};
  const bool known = ::dladdr(reinterpret_cast<void*>(&library_file), &here) != 0;
  expect(known && here.dli_fname != nullptr, "code that knows its own file");
  return here.dli_fname;
}

fs::path file_of(const OwnLibrary& library) {
  const char* named = std::getenv(library.variable);
  if (named != nullptr && *named != '\0') return named;
  return library_file().parent_path() / library.file_name;
}

void* symbol_of(void* opened, const OwnLibrary& library, const fs::path& file, const char* name) {
  void* symbol = ::dlsym(opened, name);
  if (symbol == nullptr) {
    fail(ErrorKind::kDevice, "{}: {} has no {}, so it is not swiftprune's {}; {}", library.flag,
         file.string(), name, library.code, library.instead);
  }
  return symbol;
}

void* open_own_library(const OwnLibrary& library, const fs::path& file) {
  void* opened = ::dlopen(file.c_str(), RTLD_NOW | (library.shares_symbols ? RTLD_GLOBAL : RTLD_LOCAL));
  if (opened == nullptr) {
    fail(ErrorKind::kDevice, "{}: {} cannot be opened: {}; {}", library.flag, library.code, ::dlerror(),
         library.instead);
  }
  const auto version_of =
      reinterpret_cast<OwnVersionFn>(symbol_of(opened, library, file, library.version_symbol));
  const std::string_view version = version_of();
  if (version != SWIFTPRUNE_VERSION) {
    fail(ErrorKind::kDevice, "{}: {}: found version {}, expected {}; take it from the program's build, or {}",
         library.flag, file.string(), version, SWIFTPRUNE_VERSION, library.instead);
  }
  return opened;
}

}  // namespace swiftprune
