// Arbitrary bytes as a chat template and, behind the first zero byte, the JSON that it sees. Small limits
// keep a round short; whatever comes out is text or a TemplateError.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "swiftprune/templates/json_value.h"
#include "swiftprune/templates/template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune::templates;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = input.find('\0');
  DictBuilder context;
  try {
    if (cut != std::string_view::npos) {
      const Value json = parse_json_value(input.substr(cut + 1), "fuzz");
      if (const Dict* members = json.as<Dict>()) context = DictBuilder(*members);
    }
    const RenderOptions options{
        .limits = {.steps = 20'000, .work_bytes = 1 << 22, .output_bytes = 1 << 20, .depth = 200}};
    Template(input.substr(0, cut)).render(context.build(), options);
  } catch (const TemplateError&) {
  }
  return 0;
}
