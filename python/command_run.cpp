#include "command_run.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nanobind/stl/string.h>

#include "command.h"
#include "config_file.h"
#include "python_errors.h"
#include "swiftprune/core/error.h"
#include "usage_message.h"

namespace nb = nanobind;

namespace swiftprune::python {
namespace {

constexpr auto kListenPeriod = std::chrono::milliseconds(50);

struct Step {
  std::string stage;
  std::int64_t done = 0, total = 0;
};

// What passes between the thread that works and the one that listens to Python.
class Run {
 public:
  explicit Run(std::vector<std::string> arguments)
      : thread_([this, arguments = std::move(arguments)] { work(arguments); }) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  ~Run() {
    stop();
    thread_.join();
  }

  void stop() { stop_.request_stop(); }
  // Whether it ended within the period.
  bool wait() {
    std::unique_lock lock(mutex_);
    return ended_cv_.wait_for(lock, kListenPeriod, [this] { return ended_; });
  }
  std::optional<Step> take_step() {
    const std::scoped_lock lock(mutex_);
    return std::exchange(step_, std::nullopt);
  }
  // Behind the end.
  const std::optional<std::string>& result() const { return result_; }
  const std::optional<std::string>& page() const { return page_; }
  const std::vector<std::string>& notes() const { return notes_; }
  const std::exception_ptr& error() const { return error_; }

 private:
  void work(const std::vector<std::string>& arguments) {
    try {
      run(arguments);
    } catch (...) {
      error_ = std::current_exception();
    }
    const std::scoped_lock lock(mutex_);
    ended_ = true;
    ended_cv_.notify_all();
  }

  void run(const std::vector<std::string>& arguments) {
    const cli::CommandHost host{.stop = stop_.get_token(),
                                .progress =
                                    [this](std::string_view stage, std::int64_t done, std::int64_t total) {
                                      const std::scoped_lock lock(mutex_);
                                      step_ = Step{std::string(stage), done, total};
                                    },
                                .result =
                                    [this](const nlohmann::ordered_json& document) {
                                      result_ = document.dump(-1, ' ', false,
                                                              nlohmann::json::error_handler_t::replace);
                                    },
                                .note = [this](const std::string& note) { notes_.push_back(note); },
                                .page = [this](const std::string& page) { page_ = page; }};
    const cli::HostScope scope(host);
    const auto program = cli::make_program();
    try {
      const std::vector<std::string> all = cli::with_config(arguments);
      program->parse(std::vector<std::string>(all.rbegin(), all.rend()));
    } catch (const CLI::ParseError& error) {
      bad_usage("{}", cli::usage_message(*program, arguments, error));
    }
  }

  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable ended_cv_;
  bool ended_ = false;
  std::optional<Step> step_;
  std::optional<std::string> result_, page_;
  std::vector<std::string> notes_;
  std::exception_ptr error_;
  std::thread thread_;  // last: it uses the others
};

void tell(const nb::object& progress, Run& run) {
  if (progress.is_none()) return;
  if (const auto step = run.take_step()) progress(step->stage, step->done, step->total);
}

// The exception that is set, as an object.
nb::object take_python_error() {
  PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return nb::steal(value);
}

}  // namespace

nb::tuple run_command(const std::vector<std::string>& arguments, nb::object progress) {
  Run run(arguments);
  nb::object raised = nb::none();  // while it was listened to
  for (bool ended = false; !ended;) {
    {
      const nb::gil_scoped_release released;
      ended = run.wait();
    }
    if (!raised.is_none()) continue;  // it cleans up
    try {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      tell(progress, run);
    } catch (nb::python_error& error) {
      raised = nb::borrow(error.value());
      run.stop();
    }
  }
  nb::object error = raised;
  // Of an interrupted run the library tells what was kept.
  if (run.error() &&
      (raised.is_none() || PyErr_GivenExceptionMatches(raised.ptr(), PyExc_KeyboardInterrupt))) {
    set_python_error(run.error());
    error = take_python_error();
  }
  nb::list notes;
  for (const std::string& note : run.notes()) notes.append(note);
  const auto text = [](const std::optional<std::string>& value) {
    return value ? nb::object(nb::str(value->data(), value->size())) : nb::none();
  };
  return nb::make_tuple(text(run.result()), text(run.page()), notes, error);
}

}  // namespace swiftprune::python
