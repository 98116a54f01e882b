#include "swiftprune/templates/parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "swiftprune/templates/expression_parser.h"

namespace swiftprune::templates {
namespace {

using Kind = Token::Kind;

constexpr std::array<std::string_view, 6> kRefused = {"include", "import", "from",
                                                      "extends", "block",  "autoescape"};

ExpressionPtr clone_target(const Expression& target) {
  auto copy = std::make_unique<Expression>();
  copy->kind = target.kind;
  copy->line = target.line;
  copy->text = target.text;
  copy->attribute = target.attribute;
  copy->store = target.store;
  for (const ExpressionPtr& item : target.items) copy->items.push_back(clone_target(*item));
  return copy;
}

class Parser {
 public:
  explicit Parser(std::string_view source) : stream_(tokenize(source)), expressions_(stream_) {}

  Body run() {
    Body body = statements({});
    if (!stream_.is(Kind::kEnd)) stream_.fail(fmt::format("unexpected {}", stream_.described()));
    return body;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  // Up to one of the end tags, whose name is then the current token; without ends: up to the template's end.
  Body statements(Ends ends) {
    if (++depth_ > kMaxNesting) {
      throw TemplateError(TemplateError::Kind::kLimit,
                          fmt::format("tags are nested deeper than {} levels", kMaxNesting), stream_.line());
    }
    Body body;
    while (!stream_.is(Kind::kEnd)) {
      if (stream_.is(Kind::kData)) {
        Expression& text = add_output(body);
        text.kind = ExpressionKind::kConstant;
        text.constant = Value(stream_.next().text);
      } else if (stream_.is(Kind::kVariableBegin)) {
        stream_.next();
        Statement& output = body.emplace_back(Statement(StatementKind::kOutput, stream_.line()));
        output.expressions.push_back(expressions_.tuple({}));
        stream_.expect(Kind::kVariableEnd, "'}}'");
      } else {
        stream_.expect(Kind::kBlockBegin, "'{%'");
        if (std::any_of(ends.begin(), ends.end(),
                        [&](std::string_view end) { return stream_.is_name(end); })) {
          --depth_;
          return body;
        }
        body.push_back(statement());
        stream_.expect(Kind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size() > 0) stream_.fail(fmt::format("the template ends before '{}'", *(ends.end() - 1)));
    --depth_;
    return body;
  }

  Expression& add_output(Body& body) {
    Statement& output = body.emplace_back(Statement(StatementKind::kOutput, stream_.line()));
    output.expressions.push_back(std::make_unique<Expression>());
    output.expressions[0]->line = stream_.line();
    return *output.expressions[0];
  }

  // The body of a tag: behind its head.
  Body block(Ends ends) {
    stream_.skip_operator(":");
    stream_.expect(Kind::kBlockEnd, "'%}'");
    return statements(ends);
  }
  Body whole_block(std::string_view end) {
    Body body = block({end});
    stream_.next();
    return body;
  }

  Statement statement() {
    if (!stream_.is(Kind::kName)) stream_.fail("tag name expected");
    const Token tag = stream_.current();
    if (std::find(kRefused.begin(), kRefused.end(), tag.text) != kRefused.end()) {
      stream_.refuse(fmt::format("the tag '{}'", tag.text));
    }
    stream_.next();
    Statement result(StatementKind::kOutput, tag.line);
    if (tag.text == "for") {
      parse_for(result);
    } else if (tag.text == "if") {
      parse_if(result);
    } else if (tag.text == "set") {
      parse_set(result);
    } else if (tag.text == "macro") {
      parse_macro(result);
    } else if (tag.text == "call") {
      parse_call(result);
    } else if (tag.text == "filter") {
      result.kind = StatementKind::kFilterBlock;
      result.filter = expressions_.filters(nullptr, true);
      result.bodies.push_back(whole_block("endfilter"));
    } else if (tag.text == "with") {
      parse_with(result);
    } else if (tag.text == "print") {
      while (!stream_.is(Kind::kBlockEnd)) {
        if (!result.expressions.empty()) stream_.expect_operator(",");
        result.expressions.push_back(expressions_.expression());
      }
    } else if (tag.text == "generation") {
      result.kind = StatementKind::kGeneration;
      result.function = std::make_unique<Function>();
      result.function->body = function_body("endgeneration");
    } else if (tag.text == "break" || tag.text == "continue") {
      result.kind = tag.text == "break" ? StatementKind::kBreak : StatementKind::kContinue;
      if (loops_ == 0) stream_.fail(fmt::format("'{}' outside of a loop", tag.text));
    } else {
      stream_.fail(fmt::format("encountered unknown tag '{}'", tag.text));
    }
    return result;
  }

  // Inside a function no loop around it can be left.
  Body function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = whole_block(end);
    loops_ = loops;
    return body;
  }

  void parse_for(Statement& result) {
    result.kind = StatementKind::kFor;
    result.targets.push_back(expressions_.target(false, "in"));
    if (!stream_.skip_name("in")) stream_.fail(fmt::format("expected 'in', got {}", stream_.described()));
    result.expressions.push_back(
        expressions_.tuple({.with_condition = false, .parentheses = false, .end_name = "recursive"}));
    if (stream_.skip_name("if")) {
      result.test = expressions_.expression();
      result.test_target = clone_target(*result.targets[0]);
    }
    if (stream_.is_name("recursive")) stream_.refuse("a recursive loop");
    ++loops_;
    result.bodies.push_back(block({"else", "endfor"}));
    --loops_;
    const bool has_else = stream_.next().text == "else";
    result.bodies.push_back(has_else ? whole_block("endfor") : Body{});
  }

  void parse_if(Statement& result) {
    result.kind = StatementKind::kIf;
    while (true) {
      result.expressions.push_back(
          expressions_.tuple({.with_condition = false, .parentheses = false, .end_name = {}}));
      result.bodies.push_back(block({"elif", "else", "endif"}));
      const std::string tag = stream_.next().text;
      if (tag == "elif") continue;
      result.bodies.push_back(tag == "else" ? whole_block("endif") : Body{});
      return;
    }
  }

  void parse_set(Statement& result) {
    result.targets.push_back(expressions_.target(true, {}));
    if (stream_.skip_operator("=")) {
      result.kind = StatementKind::kSet;
      result.expressions.push_back(expressions_.tuple({}));
      return;
    }
    result.kind = StatementKind::kSetBlock;
    result.filter = expressions_.filters(nullptr, false);
    result.bodies.push_back(whole_block("endset"));
  }

  void parse_signature(Function& function) {
    stream_.expect_operator("(");
    while (!stream_.is_operator(")")) {
      if (!function.parameters.empty()) stream_.expect_operator(",");
      Parameter parameter{.name = stream_.expect_name(), .value = nullptr};
      for (const Parameter& other : function.parameters) {
        if (other.name == parameter.name) stream_.fail(fmt::format("duplicate argument '{}'", other.name));
      }
      if (stream_.skip_operator("=")) {
        parameter.value = expressions_.expression();
      } else if (!function.parameters.empty() && function.parameters.back().value != nullptr) {
        stream_.fail("non-default argument follows default argument");
      }
      function.parameters.push_back(std::move(parameter));
    }
    stream_.expect_operator(")");
  }

  void parse_macro(Statement& result) {
    result.kind = StatementKind::kMacro;
    result.function = std::make_unique<Function>();
    result.function->name = stream_.expect_name();
    parse_signature(*result.function);
    result.function->body = function_body("endmacro");
  }

  void parse_call(Statement& result) {
    result.kind = StatementKind::kCallBlock;
    result.function = std::make_unique<Function>();
    if (stream_.is_operator("(")) parse_signature(*result.function);
    result.expressions.push_back(expressions_.expression());
    if (result.expressions[0]->kind != ExpressionKind::kCall) stream_.fail("expected call");
    result.function->body = function_body("endcall");
  }

  void parse_with(Statement& result) {
    result.kind = StatementKind::kWith;
    while (!stream_.is(Kind::kBlockEnd)) {
      if (!result.targets.empty()) stream_.expect_operator(",");
      result.targets.push_back(expressions_.target(false, {}));
      stream_.expect_operator("=");
      result.expressions.push_back(expressions_.expression());
    }
    result.bodies.push_back(whole_block("endwith"));
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int depth_ = 0;
  int loops_ = 0;  // around the statement, in its function
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(source).run(); }

}  // namespace swiftprune::templates
