# MPI is used when it is there; of its language bindings C's alone.
set(MPI_CXX_SKIP_MPICXX ON)
find_package(MPI QUIET COMPONENTS CXX)
option(SWIFTPRUNE_MPI "Build the MPI path: several processes, one run" ${MPI_CXX_FOUND})
if(SWIFTPRUNE_MPI AND NOT MPI_CXX_FOUND)
  message(FATAL_ERROR "SWIFTPRUNE_MPI=ON, but no MPI was found (Debian: libopenmpi-dev)")
endif()
