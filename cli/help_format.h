// --help in 100 columns, without the parser's own notation (bounds in brackets, default values of flags).
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace swiftprune::cli {

class HelpFormat : public CLI::Formatter {
 public:
  HelpFormat();
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_usage(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

// Checks in place of the parser's, whose messages print the largest double.
CLI::Validator zero_or_more();
CLI::Validator more_than_zero();
// One of these words, or several with commas between them.
CLI::Validator some_of(const std::vector<std::string>& words);

}  // namespace swiftprune::cli
