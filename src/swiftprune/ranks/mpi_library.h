// MPI between the ranks, in a library of its own, libswiftprune_mpi.so, which is linked to the MPI that was there when
// it was built and opened when a run has several ranks (core/own_library.h).
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// The two C functions that the library exports (mpi_communicator.cpp).
inline constexpr const char* kMpiVersionSymbol = "swiftprune_mpi_version";
inline constexpr const char* kMpiCommunicatorSymbol = "swiftprune_make_mpi_communicator";
// Starts MPI, once in a process; owned by the caller.
using MakeMpiCommunicatorFn = Communicator* (*)(std::chrono::seconds time_limit);

// Where the library is looked for: SWIFTPRUNE_MPI_LIBRARY names the file, else it lies beside libswiftprune.so.
std::filesystem::path mpi_library_file();
// Throws Error{kDevice} when it is not there.
void check_mpi_library();
// The ranks that MPI's launcher started. Throws Error{kDevice} when the library is not there, is no library, or not this
// build's.
std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::seconds time_limit);

}  // namespace swiftprune
