#include "swiftprune/templates/template.h"

#include <chrono>

#include "swiftprune/templates/parser.h"
#include "swiftprune/templates/renderer.h"
#include "swiftprune/templates/symbols.h"

namespace swiftprune::templates {

struct Template::Parsed {
  Function root;
};

Template::Template(std::string_view source) {
  if (source.size() > kMaxTemplateBytes)
    limit_error("found {} bytes, expected at most {}", source.size(), kMaxTemplateBytes);
  parsed_ = std::make_unique<const Parsed>(Parsed{resolve_names(parse_template(source))});
}

Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

std::string Template::render(const Dict& context, const RenderOptions& options) const {
  return Renderer(context, options).run(parsed_->root);
}

LocalTime local_time_now() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  LocalTime local;
  localtime_r(&seconds, &local.time);
  const auto since = now - std::chrono::system_clock::from_time_t(seconds);
  local.microseconds =
      static_cast<int>(std::chrono::duration_cast<std::chrono::microseconds>(since).count() % 1'000'000);
  return local;
}

}  // namespace swiftprune::templates
