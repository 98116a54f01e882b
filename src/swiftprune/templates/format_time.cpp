// Python's datetime.strftime of a time without a zone: C's, but for fractions and the zone.
#include <array>

#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {

std::string format_time(const std::string& format, const LocalTime& time) {
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string directive = "%";
    while (++i < format.size()) {
      directive += format[i];
      if (std::string_view("-_0^#").find(format[i]) == std::string_view::npos) break;
    }
    const char type = directive.back();
    if (directive == "%f") {
      out += fmt::format("{:06}", time.microseconds);
    } else if (directive == "%z" || directive == "%Z" || directive == "%:z") {
      continue;  // a time without a zone
    } else if (std::string_view("aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%").find(type) ==
               std::string_view::npos) {
      unsupported("the time format '{}'", directive);
    } else {
      std::array<char, 256> buffer;
      const std::size_t size = std::strftime(buffer.data(), buffer.size(), directive.c_str(), &time.time);
      out.append(buffer.data(), size);
    }
  }
  return out;
}

}  // namespace swiftprune::templates
