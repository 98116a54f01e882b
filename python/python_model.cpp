#include "python_model.h"

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "model_text.h"
#include "swiftprune/api/text_writer.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/templates/json_value.h"
#include "version.h"

namespace nb = nanobind;

namespace swiftprune::python {
namespace {

class Writer;

// Pieces of one text.
class Pieces {
 public:
  Pieces(Writer& writer, const std::vector<std::int32_t>& prompt, const WritingOptions& options);
  std::optional<std::string> next();
  std::string stop() const { return std::string(writing_->stopped_by()); }
  const Writing& writing() const { return *writing_; }

 private:
  Writer& writer_;
  std::optional<Writing> writing_;
  bool ended_ = false;
};

// Python threads may share it: one of them works at a time.
class Writer {
 public:
  Writer(const std::string& model, const std::string& device, const std::string& compute, bool prompt_copies,
         int threads)
      : threads_(threads) {
    const RunScope scope = bind();
    location_ = locate_model(model);
    folder_ = location_.folder.string();
    device_ = open_device(device);
    writer_.emplace(folder_, *device_, compute_by_name(compute, *device_),
                    LoadOptions{.tune = true, .prompt_copies = prompt_copies});
  }

  std::string folder() const { return folder_; }
  std::string name() const { return model_name(folder_); }
  std::string device() const { return device_->name(); }
  std::int64_t max_positions() const { return writer_->model().config().max_positions; }
  std::vector<std::string> notes() const {
    std::vector<std::string> notes = location_.gguf ? location_.gguf->notes() : std::vector<std::string>();
    const std::vector<std::string>& more = writer_->model().notes();
    notes.insert(notes.end(), more.begin(), more.end());
    if (std::string note = cli::slow_processor_note(); !note.empty()) notes.push_back(std::move(note));
    return notes;
  }
  bool can_chat() {
    const std::scoped_lock lock(mutex_);
    return writer_->chat() != nullptr;
  }

  std::vector<std::int32_t> encode(const std::string& text, bool add_special) const {
    return writer_->tokenizer().encode(text, add_special);
  }
  std::string decode(const std::vector<std::int32_t>& ids, bool skip_special) const {
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= writer_->tokenizer().vocab_size())
        bad_usage("ids: found {}, expected 0 to {}", id, writer_->tokenizer().vocab_size() - 1);
    }
    return writer_->tokenizer().decode(ids, skip_special);
  }
  std::vector<std::int32_t> prompt(const std::string& text) const { return writer_->prompt(text); }
  // body: JSON with messages and what else the template takes.
  std::vector<std::int32_t> chat_prompt(const std::string& body) {
    const std::scoped_lock lock(mutex_);
    return writer_->prompt(templates::chat_request_of(templates::parse_json_value(body, "messages")));
  }

 private:
  friend class Pieces;
  RunScope bind() const { return RunScope({.threads = threads_}); }

  int threads_;
  std::mutex mutex_;
  LocatedModel location_;
  std::string folder_;
  std::unique_ptr<Device> device_;
  std::optional<TextWriter> writer_;
};

Pieces::Pieces(Writer& writer, const std::vector<std::int32_t>& prompt, const WritingOptions& options)
    : writer_(writer) {
  const std::scoped_lock lock(writer_.mutex_);
  const RunScope scope = writer_.bind();
  writing_.emplace(writer_.writer_->write(prompt, options));
}

std::optional<std::string> Pieces::next() {
  const std::scoped_lock lock(writer_.mutex_);
  const RunScope scope = writer_.bind();
  if (ended_) return std::nullopt;
  if (auto piece = writing_->next()) return piece;
  ended_ = true;
  std::string rest = writing_->rest();
  return rest.empty() ? std::nullopt : std::optional(std::move(rest));
}

}  // namespace

void add_model(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Writer>(module, "Writer")
      .def(nb::init<const std::string&, const std::string&, const std::string&, bool, int>(),
           nb::arg("model"), nb::arg("device"), nb::arg("compute"), nb::arg("prompt_copies"),
           nb::arg("threads"), Release())
      .def_prop_ro("folder", &Writer::folder)
      .def_prop_ro("name", &Writer::name)
      .def_prop_ro("device", &Writer::device)
      .def_prop_ro("max_positions", &Writer::max_positions)
      .def_prop_ro("notes", &Writer::notes)
      .def_prop_ro("can_chat", &Writer::can_chat)
      .def("encode", &Writer::encode, Release())
      .def("decode", &Writer::decode, Release())
      .def("prompt", &Writer::prompt, Release())
      .def("chat_prompt", &Writer::chat_prompt, Release());
  nb::class_<Pieces>(module, "Pieces")
      .def(
          "__init__",
          [](Pieces* self, Writer& writer, const std::vector<std::int32_t>& prompt, std::int64_t max_tokens,
             double temperature, double top_p, std::int64_t top_k, double min_p, std::uint64_t seed) {
            new (self) Pieces(writer, prompt,
                              {.max_tokens = max_tokens,
                               .sampler = {.temperature = temperature,
                                           .top_p = top_p,
                                           .seed = seed,
                                           .top_k = top_k,
                                           .min_p = min_p}});
          },
          nb::keep_alive<1, 2>(), Release())
      .def("next", &Pieces::next, Release())
      .def_prop_ro("stop", &Pieces::stop)
      .def_prop_ro("num_tokens", [](const Pieces& self) { return self.writing().num_tokens(); })
      .def_prop_ro("prompt_tokens", [](const Pieces& self) { return self.writing().prompt_tokens(); })
      .def_prop_ro("prefill_seconds", [](const Pieces& self) { return self.writing().prefill_seconds(); })
      .def_prop_ro("decode_seconds", [](const Pieces& self) { return self.writing().decode_seconds(); });
}

}  // namespace swiftprune::python
