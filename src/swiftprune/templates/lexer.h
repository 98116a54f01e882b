// Jinja's lexer with transformers' settings: trim_blocks, lstrip_blocks, no trailing newline of the template.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::templates {

struct Token {
  enum class Kind {
    kData,
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  int line;
  std::string text;  // string: its value; name, operator, number: as written
};

// The whole template; the last token is kEnd. Throws TemplateError{kSyntax}.
std::vector<Token> tokenize(std::string_view source);

// Python's str.isspace for one code point.
bool is_python_space(char32_t c);

}  // namespace swiftprune::templates
