// The parser's view of the tokens.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/templates/lexer.h"
#include "swiftprune/templates/template_error.h"

namespace swiftprune::templates {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[position_]; }
  const Token& look() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  int line() const { return current().line; }
  bool is(Token::Kind kind) const { return current().kind == kind; }
  bool is_operator(std::string_view text) const {
    return is(Token::Kind::kOperator) && current().text == text;
  }
  bool is_name(std::string_view text) const { return is(Token::Kind::kName) && current().text == text; }

  Token next() {
    Token token = current();
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool skip_operator(std::string_view text) {
    const bool found = is_operator(text);
    if (found) next();
    return found;
  }
  bool skip_name(std::string_view text) {
    const bool found = is_name(text);
    if (found) next();
    return found;
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail(fmt::format("expected token '{}', got {}", text, described()));
  }
  std::string expect_name() {
    if (!is(Token::Kind::kName)) fail(fmt::format("expected a name, got {}", described()));
    return next().text;
  }
  void expect(Token::Kind kind, std::string_view what) {
    if (!is(kind)) fail(fmt::format("expected {}, got {}", what, described()));
    next();
  }

  std::string described() const {
    switch (current().kind) {
      case Token::Kind::kData:
        return "template data";
      case Token::Kind::kVariableBegin:
        return "'{{'";
      case Token::Kind::kVariableEnd:
        return "'}}'";
      case Token::Kind::kBlockBegin:
        return "'{%'";
      case Token::Kind::kBlockEnd:
        return "'%}'";
      case Token::Kind::kEnd:
        return "the end of the template";
      default:
        return "'" + current().text + "'";
    }
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw TemplateError(TemplateError::Kind::kSyntax, message, line());
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw TemplateError(TemplateError::Kind::kUnsupported, what + " cannot be rendered here", line());
  }

 private:
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
};

}  // namespace swiftprune::templates
