// What all jobs of the library have in common: a job is a struct of what is asked (folder in, folder out, the options of
// the command of its name), run() does it and gives a value or an Error, never an exception. The commands of cli/ do
// their work through the same functions.
#pragma once

#include <cstdint>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <variant>

#include <nlohmann/json.hpp>

#include "swiftprune/backend/backend.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/internal_error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/device/device.h"

namespace swiftprune {

// Something that a person should know; a line of text.
using NoteFn = std::function<void(const std::string&)>;

// Where a job works. Read by run(); the commands have their own flags for it.
struct JobDevice {
  std::string device = "cpu";    // as open_device()
  DeviceOptions options = {};    // memory of a GPU to take
  std::string compute = "auto";  // "f32", "bf16", "auto": the device's own
};

// How a job stops, tells its progress and notes; all may be left out.
struct JobContext {
  RunContext run = {};
  NoteFn note = [](const std::string&) {};
};

// Who asks for a run: what its record says of it, and what `resume` compares.
struct JobOrigin {
  nlohmann::ordered_json command;  // {"arguments", "options"}
  nlohmann::ordered_json options;  // all that can change what is written
};

// Throws Error{kUsage} for another name.
ComputeType compute_by_name(const std::string& name, const Device& device);

// What a job came to: its value, or the error that it ended with. An interrupt is an error, too, of a kind
// of its own.
template <class T>
class Outcome {
 public:
  Outcome(T value) : result_(std::move(value)) {}      // NOLINT: an outcome is made of either
  Outcome(Error error) : result_(std::move(error)) {}  // NOLINT

  bool ok() const { return std::holds_alternative<T>(result_); }
  explicit operator bool() const { return ok(); }
  // The value; throws the error when there is none.
  const T& value() const {
    if (!ok()) throw error();
    return std::get<T>(result_);
  }
  // Only where !ok().
  const Error& error() const { return std::get<Error>(result_); }

 private:
  std::variant<T, Error> result_;
};

// The work's value, or what it threw as an Error: memory that does not suffice and bugs of ours, too (kFailure).
template <class Work>
auto outcome_of(const Work& work) -> Outcome<decltype(work())> {
  try {
    return work();
  } catch (const Error& error) {
    return error;
  } catch (const InternalError& error) {
    return Error(ErrorKind::kFailure, error.what());
  } catch (const std::bad_alloc&) {
    return Error(ErrorKind::kFailure, "out of memory; use fewer windows or a shorter --seqlen");
  } catch (const std::exception& error) {
    return Error(ErrorKind::kFailure, error.what());
  }
}

}  // namespace swiftprune
