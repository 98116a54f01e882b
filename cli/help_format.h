// --help in 100 columns, without the parser's own notation (bounds in brackets, default values of flags).
#pragma once

#include <string>

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

}  // namespace swiftprune::cli
