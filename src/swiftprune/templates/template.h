// Chat templates: the part of Jinja that they use, rendered as transformers 5 renders it with jinja2
// (immutable sandbox, trim_blocks, lstrip_blocks, loop controls, generation blocks). What is not done is
// refused by name, and never rendered as something else. Reference: jinja2 3.1
// (tools/make_chat_template_fixtures.py compares).
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

inline constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 20;

struct RenderLimits {
  std::int64_t steps = 5'000'000;                   // expressions, statements and items looked at
  std::int64_t work_bytes = std::int64_t{1} << 31;  // of all texts and lists made on the way
  std::size_t output_bytes = std::size_t{1} << 25;  // of the whole or any block's text
  int depth = 800;                                  // macros, statements and expressions in each other
};

struct LocalTime {
  std::tm time{};
  int microseconds = 0;
};
LocalTime local_time_now();

struct RenderOptions {
  RenderLimits limits;
  std::function<LocalTime()> now = local_time_now;  // of strftime_now
};

class Template {
 public:
  // Throws TemplateError: not UTF-8, a syntax error, a tag that is refused.
  explicit Template(std::string_view source);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();
  // context: variables by name. Throws TemplateError. Several threads may render at once.
  std::string render(const Dict& context, const RenderOptions& options = {}) const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace swiftprune::templates
