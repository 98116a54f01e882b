// NVIDIA's NCCL, opened when several GPUs work together (libnccl.so.2 where the loader finds it, or the file that
// SWIFTPRUNE_NCCL_LIBRARY names): a program for one GPU needs none. These are the functions and values of its C interface,
// the same in every NCCL 2, that the ranks use.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace swiftprune::cuda {

struct NcclLibrary {
  struct Id {
    char bytes[128];
  };
  using Comm = struct NcclComm*;
  static constexpr int kSuccess = 0, kInProgress = 7;  // results
  static constexpr int kBytes = 0, kUint64 = 5;        // types
  static constexpr int kSum = 0;

  int (*get_unique_id)(Id* id) = nullptr;
  int (*comm_init_rank)(Comm* comm, int ranks, Id id, int rank) = nullptr;
  int (*comm_destroy)(Comm comm) = nullptr;
  int (*comm_abort)(Comm comm) = nullptr;
  int (*comm_get_async_error)(Comm comm, int* error) = nullptr;
  const char* (*get_error_string)(int result) = nullptr;
  int (*send)(const void* data, std::size_t count, int type, int to, Comm comm,
              cudaStream_t stream) = nullptr;
  int (*receive)(void* data, std::size_t count, int type, int from, Comm comm, cudaStream_t stream) = nullptr;
  int (*broadcast)(const void* from, void* to, std::size_t count, int type, int root, Comm comm,
                   cudaStream_t stream) = nullptr;
  int (*all_reduce)(const void* from, void* to, std::size_t count, int type, int operation, Comm comm,
                    cudaStream_t stream) = nullptr;

  // Throws Error{kDevice} where there is none, or one that lacks a function.
  static const NcclLibrary& open();
  // Throws Error{kDevice} for every result but success.
  void check(int result, const char* what) const;

 private:
  NcclLibrary();
};

}  // namespace swiftprune::cuda
