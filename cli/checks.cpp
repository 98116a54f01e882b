#include "checks.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "suggestions.h"
#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/selection/pattern.h"

namespace swiftprune::cli {
namespace {

template <typename Number>
std::optional<Number> read(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole ? std::optional(number) : std::nullopt;
}

// "q4km" of "q4_k_m"
std::string letters_of(std::string text) {
  std::erase_if(text, [](unsigned char c) { return std::isalnum(c) == 0; });
  return text;
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

CLI::Validator within(const OptionRange& range) {
  return CLI::Validator(
      [range](std::string& value) {
        const auto number = read<double>(value);
        return number && range.holds(*number) ? std::string()
                                              : fmt::format("found '{}', expected {}", value, range.text());
      },
      range.is_bounded() ? fmt::format("[{} - {}]", range.least, range.most) : range.text());
}

CLI::Validator one_of(OptionWords words) {
  return one_of(std::vector<std::string>(words.begin(), words.end()));
}

CLI::Validator zero_or_more() { return within(option_values::kZeroOrMore); }
CLI::Validator more_than_zero() { return within(option_values::kMoreThanZero); }
CLI::Validator in_range(double least, double most) { return within({least, most}); }

CLI::Validator one_of(const std::vector<std::string>& words) {
  return CLI::Validator(
      [words](std::string& value) {
        const auto word = std::ranges::find(words, lower(value), lower);
        if (word == words.end()) {
          const auto alike = std::ranges::find(words, letters_of(lower(value)), letters_of);
          const std::string near = alike != words.end() ? *alike : nearest(lower(value), words);
          return fmt::format("found '{}', expected one of {}{}", value, fmt::join(words, ", "),
                             near.empty() ? "" : fmt::format("; did you mean {}?", near));
        }
        value = *word;
        return std::string();
      },
      fmt::format("{{{}}}", fmt::join(words, ",")));
}

CLI::Validator some_of(const std::vector<std::string>& words) {
  return CLI::Validator(
      [words](std::string& value) {
        // The parser's own split leaves an empty word at the end out.
        for (const std::string& word : CLI::detail::split(value + ",", ',')) {
          if (std::ranges::find(words, word) == words.end())
            return fmt::format("found '{}', expected some of {}, with commas between them", value,
                               fmt::join(words, ", "));
        }
        return std::string();
      },
      fmt::format("{{{}}}", fmt::join(words, ",")));
}

CLI::Validator share() {
  return CLI::Validator(
      [](std::string& value) {
        if (value.ends_with('%')) {
          const auto percent = read<double>(std::string_view(value).substr(0, value.size() - 1));
          if (!percent) return fmt::format("found '{}', expected a number such as 0.5 or 50%", value);
          value = fmt::format("{:.12g}", *percent / 100.0);  // not 0.33299999999999996
          return std::string();
        }
        const auto number = read<double>(value);
        if (!number) return fmt::format("found '{}', expected a number such as 0.5 or 50%", value);
        if (*number >= 2.0 && *number <= 100.0) {  // 1.5 is told by the command
          return fmt::format("found '{}', expected a share below 1; {} % is {:.12g} or {}%", value, value,
                             *number / 100.0, value);
        }
        return std::string();
      },
      "");
}

CLI::Validator a_pattern(const std::string& other) {
  return CLI::Validator(
      [other](std::string& value) {
        if (!other.empty() && value == other) return std::string();
        try {
          static_cast<void>(parse_pattern(value));
        } catch (const Error& error) {
          const std::string_view text = error.what();
          return std::string(text.substr(text.find("found")));  // the option's name comes before it
        }
        return std::string();
      },
      "");
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const Method& method : methods()) names.emplace_back(method.name);
  return names;
}

CLI::Validator a_method() {
  return one_of(method_names()).description("");  // `methods` lists them
}

CLI::Validator a_name() {
  return CLI::Validator(
      [](std::string& value) { return std::string(value.empty() ? "found nothing, expected a name" : ""); },
      "");
}

CLI::Validator a_number(bool whole) {
  return CLI::Validator(
      [whole](std::string& value) {
        if (value.empty())  // a script's variable that is not set; the parser reads it as 0
          return fmt::format("found nothing, expected a {}number", whole ? "whole " : "");
        const auto number = read<double>(value);
        const bool fits = number && std::isfinite(*number) && (!whole || *number == std::floor(*number));
        return fits ? std::string()
                    : fmt::format("found '{}', expected a {}", value,
                                  whole ? "whole number" : "number such as 0.5");
      },
      "");
}

}  // namespace swiftprune::cli
