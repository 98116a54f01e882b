#include "swiftprune/templates/expression_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace swiftprune::templates {

using Kind = Token::Kind;

// Counts how deep the parser is in itself.
class Nesting {
 public:
  explicit Nesting(ExpressionParser& parser) : parser_(parser) {
    if (parser_.depth_ == 0) parser_.links_ = 0;
    if (++parser_.depth_ > kMaxNesting) {
      throw TemplateError(TemplateError::Kind::kLimit,
                          fmt::format("expressions are nested deeper than {} levels", kMaxNesting),
                          parser_.stream_.line());
    }
  }
  ~Nesting() { --parser_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  ExpressionParser& parser_;
};

namespace {

constexpr std::array<std::string_view, 6> kComparisons = {"==", "!=", ">", ">=", "<", "<="};

}  // namespace

void ExpressionParser::link() {
  if (++links_ <= kMaxLinks) return;
  throw TemplateError(TemplateError::Kind::kLimit,
                      fmt::format("an expression has more than {} operators", kMaxLinks), stream_.line());
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionPtr ExpressionParser::binary(ExpressionKind kind, std::string text, int line, ExpressionPtr left,
                                       ExpressionPtr right) const {
  ExpressionPtr node = make(kind, line);
  node->text = std::move(text);
  node->items.push_back(std::move(left));
  node->items.push_back(std::move(right));
  return node;
}

ExpressionPtr ExpressionParser::expression(bool with_condition) {
  const Nesting nesting(*this);
  if (!with_condition) return or_expression();
  const int line = stream_.line();
  ExpressionPtr node = or_expression();
  while (stream_.skip_name("if")) {
    link();
    ExpressionPtr condition = make(ExpressionKind::kCondition, line);
    condition->items.push_back(std::move(node));
    condition->items.push_back(or_expression());
    condition->items.push_back(stream_.skip_name("else") ? expression() : nullptr);
    node = std::move(condition);
  }
  return node;
}

ExpressionPtr ExpressionParser::or_expression() {
  ExpressionPtr node = and_expression();
  for (int line = stream_.line(); stream_.skip_name("or"); line = stream_.line()) {
    link();
    node = binary(ExpressionKind::kOr, "or", line, std::move(node), and_expression());
  }
  return node;
}

ExpressionPtr ExpressionParser::and_expression() {
  ExpressionPtr node = not_expression();
  for (int line = stream_.line(); stream_.skip_name("and"); line = stream_.line()) {
    link();
    node = binary(ExpressionKind::kAnd, "and", line, std::move(node), not_expression());
  }
  return node;
}

ExpressionPtr ExpressionParser::not_expression() {
  const Nesting nesting(*this);
  if (!stream_.is_name("not")) return compare();
  ExpressionPtr node = make(ExpressionKind::kNot, stream_.next().line);
  node->items.push_back(not_expression());
  return node;
}

ExpressionPtr ExpressionParser::compare() {
  ExpressionPtr node = make(ExpressionKind::kCompare, stream_.line());
  node->items.push_back(sum());
  while (true) {
    if (stream_.is(Kind::kOperator) &&
        std::find(kComparisons.begin(), kComparisons.end(), stream_.current().text) != kComparisons.end()) {
      node->operators.push_back(stream_.next().text);
    } else if (stream_.skip_name("in")) {
      node->operators.push_back("in");
    } else if (stream_.is_name("not") && stream_.look().kind == Kind::kName && stream_.look().text == "in") {
      stream_.next();
      stream_.next();
      node->operators.push_back("not in");
    } else {
      break;
    }
    node->items.push_back(sum());
  }
  return node->operators.empty() ? std::move(node->items[0]) : std::move(node);
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr node = concat();
  while (stream_.is_operator("+") || stream_.is_operator("-")) {
    link();
    const Token token = stream_.next();
    node = binary(ExpressionKind::kBinary, token.text, token.line, std::move(node), concat());
  }
  return node;
}

ExpressionPtr ExpressionParser::concat() {
  ExpressionPtr node = make(ExpressionKind::kConcat, stream_.line());
  node->items.push_back(product());
  while (stream_.skip_operator("~")) node->items.push_back(product());
  return node->items.size() == 1 ? std::move(node->items[0]) : std::move(node);
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr node = power();
  while (stream_.is_operator("*") || stream_.is_operator("/") || stream_.is_operator("//") ||
         stream_.is_operator("%")) {
    link();
    const Token token = stream_.next();
    node = binary(ExpressionKind::kBinary, token.text, token.line, std::move(node), power());
  }
  return node;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr node = unary(true);
  while (stream_.is_operator("**")) {
    link();
    const Token token = stream_.next();
    node = binary(ExpressionKind::kBinary, token.text, token.line, std::move(node), unary(true));
  }
  return node;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const Nesting nesting(*this);
  ExpressionPtr node;
  if (stream_.is_operator("-") || stream_.is_operator("+")) {
    const Token token = stream_.next();
    node = make(token.text == "-" ? ExpressionKind::kNegative : ExpressionKind::kPositive, token.line);
    node->items.push_back(unary(false));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filter ? filter_expression(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::primary() {
  const int line = stream_.line();
  if (stream_.is(Kind::kName)) {
    const std::string name = stream_.next().text;
    ExpressionPtr node = make(ExpressionKind::kConstant, line);
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      node->constant = Value(name[0] == 't' || name[0] == 'T');
    } else if (name != "none" && name != "None") {
      node->kind = ExpressionKind::kName;
      node->text = name;
    }
    return node;
  }
  if (stream_.is(Kind::kString)) {
    std::string text;
    while (stream_.is(Kind::kString)) text += stream_.next().text;
    ExpressionPtr node = make(ExpressionKind::kConstant, line);
    node->constant = Value(std::move(text));
    return node;
  }
  if (stream_.is(Kind::kInteger) || stream_.is(Kind::kFloat)) return number();
  if (stream_.skip_operator("(")) {
    ExpressionPtr node = tuple({.with_condition = true, .parentheses = true, .end_name = {}});
    stream_.expect_operator(")");
    return node;
  }
  if (stream_.is_operator("[")) return list();
  if (stream_.is_operator("{")) return dict();
  stream_.fail(fmt::format("unexpected {}", stream_.described()));
}

ExpressionPtr ExpressionParser::number() {
  ExpressionPtr node = make(ExpressionKind::kConstant, stream_.line());
  std::string text = stream_.current().text;
  std::erase(text, '_');
  if (stream_.is(Kind::kFloat)) {
    node->constant = Value(std::strtod(text.c_str(), nullptr));
  } else {
    int base = 10;
    if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) > '9') {
      base = (text[1] | 0x20) == 'x' ? 16 : (text[1] | 0x20) == 'o' ? 8 : 2;
      text.erase(0, 2);
    }
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size()) stream_.refuse("an integer beyond 64 bits");
    node->constant = Value(value);
  }
  stream_.next();
  return node;
}

ExpressionPtr ExpressionParser::tuple(TupleRules rules) {
  ExpressionPtr node = make(ExpressionKind::kTuple, stream_.line());
  bool is_tuple = false;
  while (true) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is(Kind::kVariableEnd) || stream_.is(Kind::kBlockEnd) || stream_.is_operator(")") ||
        (!rules.end_name.empty() && stream_.is_name(rules.end_name))) {
      break;
    }
    node->items.push_back(expression(rules.with_condition));
    if (!stream_.is_operator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return node;
  if (!node->items.empty()) return std::move(node->items[0]);
  if (!rules.parentheses) stream_.fail(fmt::format("expected an expression, got {}", stream_.described()));
  return node;
}

ExpressionPtr ExpressionParser::target_part(bool with_namespace) {
  if (stream_.is(Kind::kName) && with_namespace && stream_.look().kind == Kind::kOperator &&
      stream_.look().text == ".") {
    ExpressionPtr node = make(ExpressionKind::kNamespaceRef, stream_.line());
    node->text = stream_.next().text;
    stream_.next();
    node->attribute = stream_.expect_name();
    node->store = true;
    return node;
  }
  const int line = stream_.line();
  if (stream_.skip_operator("(")) {
    // A tuple in a tuple is parsed as any expression, and then has to be one of names.
    ExpressionPtr node = tuple({.with_condition = true, .parentheses = true, .end_name = {}});
    stream_.expect_operator(")");
    return node;
  }
  ExpressionPtr node = primary();
  node->line = line;
  return node;
}

namespace {

void mark_target(Expression& node, const TokenStream& stream) {
  if (node.kind == ExpressionKind::kTuple) {
    for (ExpressionPtr& item : node.items) mark_target(*item, stream);
  } else if (node.kind != ExpressionKind::kName && node.kind != ExpressionKind::kNamespaceRef) {
    stream.fail("can't assign to this expression");
  }
  node.store = true;
}

}  // namespace

ExpressionPtr ExpressionParser::target(bool with_namespace, std::string_view end_name) {
  ExpressionPtr node = make(ExpressionKind::kTuple, stream_.line());
  bool is_tuple = false;
  while (true) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is(Kind::kVariableEnd) || stream_.is(Kind::kBlockEnd) || stream_.is_operator(")") ||
        (!end_name.empty() && stream_.is_name(end_name))) {
      break;
    }
    node->items.push_back(target_part(with_namespace));
    if (!stream_.is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (node->items.empty()) stream_.fail(fmt::format("expected a name, got {}", stream_.described()));
    ExpressionPtr only = std::move(node->items[0]);
    node = std::move(only);
  }
  mark_target(*node, stream_);
  return node;
}

ExpressionPtr ExpressionParser::list() {
  ExpressionPtr node = make(ExpressionKind::kList, stream_.next().line);
  while (!stream_.is_operator("]")) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("]")) break;
    node->items.push_back(expression());
  }
  stream_.expect_operator("]");
  return node;
}

ExpressionPtr ExpressionParser::dict() {
  ExpressionPtr node = make(ExpressionKind::kDict, stream_.next().line);
  while (!stream_.is_operator("}")) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("}")) break;
    node->items.push_back(expression());
    stream_.expect_operator(":");
    node->items.push_back(expression());
  }
  stream_.expect_operator("}");
  return node;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr node) {
  while (true) {
    link();
    if (stream_.is_operator(".") || stream_.is_operator("[")) {
      node = subscript(std::move(node));
    } else if (stream_.is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::filter_expression(ExpressionPtr node) {
  while (true) {
    link();
    if (stream_.is_operator("|")) {
      node = filters(std::move(node), false);
    } else if (stream_.is_name("is")) {
      node = test(std::move(node));
    } else if (stream_.is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr node) {
  const Token token = stream_.next();
  if (token.text == "[") return subscribed(std::move(node), token.line);
  ExpressionPtr result = make(ExpressionKind::kAttribute, token.line);
  result->items.push_back(std::move(node));
  if (stream_.is(Kind::kName)) {
    result->text = stream_.next().text;
    return result;
  }
  if (!stream_.is(Kind::kInteger)) stream_.fail("expected name or number");
  result->kind = ExpressionKind::kItem;
  result->items.push_back(number());
  return result;
}

// What stands in the brackets of node[...].
ExpressionPtr ExpressionParser::subscribed(ExpressionPtr node, int line) {
  std::vector<ExpressionPtr> indices;
  ExpressionPtr slice;
  while (!stream_.is_operator("]")) {
    if (!indices.empty() || slice != nullptr) stream_.expect_operator(",");
    ExpressionPtr first = stream_.is_operator(":") ? nullptr : expression();
    if (!stream_.is_operator(":")) {
      indices.push_back(std::move(first));
      continue;
    }
    if (slice != nullptr) stream_.fail("invalid syntax: two slices in one subscript");
    slice = make(ExpressionKind::kSlice, line);
    slice->items.push_back(nullptr);  // the sliced value
    slice->items.push_back(std::move(first));
    for (int part = 0; part < 2; ++part) {
      const bool present = stream_.skip_operator(":") && !stream_.is_operator("]") &&
                           !stream_.is_operator(",") && !stream_.is_operator(":");
      slice->items.push_back(present ? expression() : nullptr);
    }
  }
  stream_.expect_operator("]");
  if (slice != nullptr) {
    if (!indices.empty()) stream_.fail("invalid syntax: a slice beside another subscript");
    slice->items[0] = std::move(node);
    return slice;
  }
  ExpressionPtr result = make(ExpressionKind::kItem, line);
  result->items.push_back(std::move(node));
  if (indices.size() == 1) {
    result->items.push_back(std::move(indices[0]));
  } else {
    result->items.push_back(make(ExpressionKind::kTuple, line));
    result->items[1]->items = std::move(indices);
  }
  return result;
}

ExpressionPtr ExpressionParser::call(ExpressionPtr node) {
  ExpressionPtr result = make(ExpressionKind::kCall, stream_.line());
  result->arguments = call_arguments();
  result->items.push_back(std::move(node));
  return result;
}

CallArguments ExpressionParser::call_arguments() {
  stream_.expect_operator("(");
  CallArguments arguments;
  const auto ensure = [&](bool holds) {
    if (!holds) stream_.fail("invalid syntax for function call expression");
  };
  bool first = true;
  while (!stream_.is_operator(")")) {
    if (!std::exchange(first, false)) {
      stream_.expect_operator(",");
      if (stream_.is_operator(")")) break;
    }
    if (stream_.skip_operator("*")) {
      ensure(arguments.rest == nullptr && arguments.rest_keywords == nullptr);
      arguments.rest = expression();
    } else if (stream_.skip_operator("**")) {
      ensure(arguments.rest_keywords == nullptr);
      arguments.rest_keywords = expression();
    } else if (stream_.is(Kind::kName) && stream_.look().kind == Kind::kOperator &&
               stream_.look().text == "=") {
      ensure(arguments.rest_keywords == nullptr);
      std::string key = stream_.next().text;
      stream_.next();
      for (const auto& [name, value] : arguments.keywords) {
        if (name == key) stream_.fail(fmt::format("keyword argument repeated: {}", key));
      }
      arguments.keywords.emplace_back(std::move(key), expression());
    } else {
      ensure(arguments.rest == nullptr && arguments.rest_keywords == nullptr && arguments.keywords.empty());
      arguments.positional.push_back(expression());
    }
  }
  stream_.expect_operator(")");
  return arguments;
}

std::string ExpressionParser::dotted_name() {
  std::string name = stream_.expect_name();
  while (stream_.skip_operator(".")) name.append(".").append(stream_.expect_name());
  return name;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr input, bool begin_inline) {
  while (begin_inline || stream_.skip_operator("|")) {
    link();
    begin_inline = false;
    ExpressionPtr node = make(ExpressionKind::kFilter, stream_.line());
    node->text = dotted_name();
    if (stream_.is_operator("(")) node->arguments = call_arguments();
    node->items.push_back(std::move(input));
    input = std::move(node);
  }
  return input;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr node) {
  const int line = stream_.next().line;
  const bool negated = stream_.skip_name("not");
  ExpressionPtr result = make(ExpressionKind::kTest, line);
  result->text = dotted_name();
  result->items.push_back(std::move(node));
  if (stream_.is_operator("(")) {
    result->arguments = call_arguments();
  } else if ((stream_.is(Kind::kName) && !stream_.is_name("else") && !stream_.is_name("or") &&
              !stream_.is_name("and")) ||
             stream_.is(Kind::kString) || stream_.is(Kind::kInteger) || stream_.is(Kind::kFloat) ||
             stream_.is_operator("[") || stream_.is_operator("{")) {
    if (stream_.is_name("is")) stream_.fail("You cannot chain multiple tests with is");
    const Nesting nesting(*this);
    result->arguments.positional.push_back(postfix(primary()));
  }
  if (!negated) return result;
  ExpressionPtr inverted = make(ExpressionKind::kNot, line);
  inverted->items.push_back(std::move(result));
  return inverted;
}

}  // namespace swiftprune::templates
