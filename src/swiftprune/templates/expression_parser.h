// Expressions of a template, with Jinja's precedences.
#pragma once

#include "swiftprune/templates/syntax.h"
#include "swiftprune/templates/token_stream.h"

namespace swiftprune::templates {

// Expressions and statements in each other.
inline constexpr int kMaxNesting = 200;
// Operators, filters and subscripts of one expression: a row of them is a tree as deep as it is long.
inline constexpr int kMaxLinks = 1000;

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  ExpressionPtr expression(bool with_condition = true);
  struct TupleRules {
    bool with_condition = true;
    bool parentheses = false;   // "()" is a tuple
    std::string_view end_name;  // also ends the tuple
  };
  ExpressionPtr tuple(TupleRules rules);
  // What a set or a for assigns to: names, tuples of them and, for set, attributes of a namespace.
  ExpressionPtr target(bool with_namespace, std::string_view end_name);
  // | name(...) | ...; null when there is none. The first without '|': begin_inline.
  ExpressionPtr filters(ExpressionPtr input, bool begin_inline);

 private:
  friend class Nesting;
  void link();  // one more operator
  ExpressionPtr make(ExpressionKind kind, int line) const;
  ExpressionPtr binary(ExpressionKind kind, std::string text, int line, ExpressionPtr left,
                       ExpressionPtr right) const;
  ExpressionPtr or_expression();
  ExpressionPtr and_expression();
  ExpressionPtr not_expression();
  ExpressionPtr compare();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter);
  ExpressionPtr primary();
  ExpressionPtr number();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr node);
  ExpressionPtr filter_expression(ExpressionPtr node);
  ExpressionPtr subscript(ExpressionPtr node);
  ExpressionPtr subscribed(ExpressionPtr node, int line);
  ExpressionPtr test(ExpressionPtr node);
  ExpressionPtr call(ExpressionPtr node);
  CallArguments call_arguments();
  ExpressionPtr target_part(bool with_namespace);
  std::string dotted_name();

  TokenStream& stream_;
  int depth_ = 0;
  int links_ = 0;  // in the outermost expression
};

}  // namespace swiftprune::templates
