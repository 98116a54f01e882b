// Bytes in the memory of GPUs between the ranks of a run, which have one GPU each: in the order of a stream, without a way
// through the host. A Communicator of such ranks has one (Communicator::device_link()).
#pragma once

#include <cstdint>

struct CUstream_st;  // of CUDA, whose headers nothing outside cuda/ reads

namespace swiftprune {

class DeviceLink {
 public:
  using Stream = CUstream_st*;
  virtual ~DeviceLink() = default;

  // Work for the stream: a call returns at once. All ranks give the same things in the same order.
  virtual void send(int to, const void* data, std::uint64_t bytes, Stream stream) = 0;
  virtual void receive(int from, void* data, std::uint64_t bytes, Stream stream) = 0;
  // Of `root`, to all.
  virtual void broadcast(int root, void* data, std::uint64_t bytes, Stream stream) = 0;
  // Of all ranks' values, to all: unsigned 64-bit integers.
  virtual void sum(void* values, std::int64_t count, Stream stream) = 0;

  // Until the stream's work is done. Ends also as a Communicator's waits do: a stream that waits for a rank that is
  // gone would wait for ever.
  virtual void wait(Stream stream) = 0;
};

}  // namespace swiftprune
