target_sources(swiftprune PRIVATE
  ranks/communicator.cpp
  ranks/same_on_ranks.cpp
  ranks/launched.cpp
  ranks/mpi_library.cpp)
# MPI code is a library of its own (ranks/mpi_library.h), built where there is an MPI.
if(SWIFTPRUNE_MPI)
  add_library(swiftprune_mpi SHARED ranks/mpi_communicator.cpp)
  target_link_libraries(swiftprune_mpi PRIVATE swiftprune swiftprune_warnings MPI::MPI_CXX)
  swiftprune_shared_objects(swiftprune_mpi)
  swiftprune_shared_library(swiftprune_mpi)
else()
  # None that an earlier build with MPI left beside this program.
  file(REMOVE ${PROJECT_BINARY_DIR}/libswiftprune_mpi.so)
endif()
