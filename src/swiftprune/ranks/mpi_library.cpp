#include "swiftprune/ranks/mpi_library.h"

#include "swiftprune/core/own_library.h"

namespace swiftprune {
namespace {

constexpr OwnLibrary kLibrary{.file_name = "libswiftprune_mpi.so",
                              .variable = "SWIFTPRUNE_MPI_LIBRARY",
                              .version_symbol = kMpiVersionSymbol,
                              .flag = "--ranks",
                              .code = "MPI code",
                              .instead = "run one process",
                              .shares_symbols = true};

}  // namespace

std::filesystem::path mpi_library_file() { return file_of(kLibrary); }

void check_mpi_library() {
  const std::filesystem::path file = mpi_library_file();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    fail(ErrorKind::kDevice,
         "--ranks: its MPI code, {}, is not there (a build where an MPI is installed, such as Debian's "
         "libopenmpi-dev, makes it, {} names it); run one process",
         file.string(), kLibrary.variable);
  }
}

std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::seconds time_limit) {
  check_mpi_library();
  const std::filesystem::path file = mpi_library_file();
  void* opened = open_own_library(kLibrary, file);
  const auto make =
      reinterpret_cast<MakeMpiCommunicatorFn>(symbol_of(opened, kLibrary, file, kMpiCommunicatorSymbol));
  return std::unique_ptr<Communicator>(make(time_limit));
}

}  // namespace swiftprune
