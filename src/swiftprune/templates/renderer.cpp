#include "swiftprune/templates/renderer.h"

#include <algorithm>
#include <utility>

#include "swiftprune/templates/filters.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {

// Statements and expressions that are in work at once. An error ends the render: nothing is undone for it.
class Renderer::Depth {
 public:
  explicit Depth(Renderer& renderer) : renderer_(renderer) {
    if (++renderer_.depth_ > renderer_.options_.limits.depth)
      limit_error("macros and expressions are nested deeper than {} levels", renderer_.options_.limits.depth);
  }
  ~Depth() { --renderer_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  Renderer& renderer_;
};

Renderer::Renderer(const Dict& context, const RenderOptions& options)
    : context_(context), options_(options) {}

Renderer::~Renderer() {
  for (const auto& names : namespaces_) names->clear();
  for (const auto& activation : activations_) activation->slots.clear();
}

std::string Renderer::run(const Function& root) {
  std::string output;
  output_ = &output;
  activation_ = activate(root.num_slots, nullptr);
  enter(root.scope);
  execute(root.body);
  return output;
}

void Renderer::spent() const { limit_error("the template takes more than {} steps", options_.limits.steps); }

void Renderer::charge(const Value& value) {
  step();
  if (const std::string* text = value.text()) {
    work_ += static_cast<std::int64_t>(text->size());
  } else if (const Values* items = value.sequence()) {
    work_ += static_cast<std::int64_t>(items->size() * sizeof(Value));
  } else if (const Dict* dict = value.as<Dict>()) {
    work_ += static_cast<std::int64_t>(dict->size() * sizeof(Value));
  }
  if (work_ > options_.limits.work_bytes)
    limit_error("the template makes more than {} bytes of text on its way", options_.limits.work_bytes);
}

Activation* Renderer::activate(int num_slots, Activation* parent) {
  activations_.push_back(std::make_unique<Activation>());
  activations_.back()->slots.assign(static_cast<std::size_t>(num_slots), Value(Missing{}));
  activations_.back()->parent = parent;
  return activations_.back().get();
}

Value& Renderer::slot(const Slot& slot) {
  Activation* activation = activation_;
  for (int i = 0; i < slot.hops; ++i) activation = activation->parent;
  return activation->slots[static_cast<std::size_t>(slot.index)];
}

Value Renderer::from_context(const std::string& name) const {
  if (const Value* found = context_.find(std::string_view(name))) return *found;
  if (name == "self") unsupported("the variable 'self'");
  return global(name).value_or(Value(Missing{}));
}

void Renderer::enter(const Scope& scope) {
  for (const SlotLoad& load : scope) {
    Value value = Missing{};
    if (load.kind == SlotLoad::Kind::kContext) value = from_context(load.name);
    if (load.kind == SlotLoad::Kind::kOuter) value = slot(load.from);
    slot({0, load.index}) = std::move(value);
  }
}

void Renderer::leave(const Scope& scope) {
  for (const SlotLoad& load : scope) slot({0, load.index}) = Missing{};
}

Value Renderer::read(const Expression& name) {
  const Value& value = slot(name.slot);
  return value.is<Missing>() ? undefined_value(fmt::format("'{}' is undefined", name.text)) : value;
}

void Renderer::write(std::string_view text) {
  if (output_->size() + text.size() > options_.limits.output_bytes)
    limit_error("the template writes more than {} bytes", options_.limits.output_bytes);
  *output_ += text;
}

std::shared_ptr<Namespace> Renderer::make_namespace(std::vector<std::pair<std::string, Value>> attributes) {
  namespaces_.push_back(std::make_shared<Namespace>());
  for (const auto& [name, value] : attributes) namespaces_.back()->set(name, value);
  return namespaces_.back();
}

// ---- expressions

Value Renderer::evaluate(const Expression& node) {
  try {
    const Depth depth(*this);
    step();
    switch (node.kind) {
      case ExpressionKind::kConstant:
        return node.constant;
      case ExpressionKind::kName:
        return read(node);
      case ExpressionKind::kAttribute:
        return attribute(evaluate(*node.items[0]), node.text);
      case ExpressionKind::kAnd:
      case ExpressionKind::kOr: {
        Value left = evaluate(*node.items[0]);
        return truth(left) == (node.kind == ExpressionKind::kOr) ? left : evaluate(*node.items[1]);
      }
      case ExpressionKind::kNot:
        return Value(!truth(evaluate(*node.items[0])));
      case ExpressionKind::kCondition:
        if (truth(evaluate(*node.items[1]))) return evaluate(*node.items[0]);
        if (node.items[2]) return evaluate(*node.items[2]);
        return undefined_value("the inline if-expression evaluated to false and no else section was defined");
      default: {
        Value value = evaluate_operation(node);
        charge(value);
        return value;
      }
    }
  } catch (const TemplateError& error) {
    if (error.line() > 0) throw;
    throw TemplateError(error.what_stopped(), error.message(), node.line);
  }
}

Value Renderer::evaluate_operation(const Expression& node) {
  switch (node.kind) {
    case ExpressionKind::kItem: {
      const Value value = evaluate(*node.items[0]);
      return item(value, evaluate(*node.items[1]));
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(node);
    case ExpressionKind::kCall: {
      const Value function = evaluate(*node.items[0]);
      return call(function, evaluate_arguments(node.arguments));
    }
    case ExpressionKind::kFilter:
      return evaluate_filter(node, nullptr);
    case ExpressionKind::kTest: {
      const Value input = evaluate(*node.items[0]);
      return Value(call_test(node.text, input, evaluate_arguments(node.arguments)));
    }
    case ExpressionKind::kNegative:
      return negative(evaluate(*node.items[0]));
    case ExpressionKind::kPositive:
      return positive(evaluate(*node.items[0]));
    case ExpressionKind::kBinary: {
      const Value left = evaluate(*node.items[0]);
      return binary_operation(node.text, left, evaluate(*node.items[1]));
    }
    case ExpressionKind::kCompare:
      return Value(evaluate_compare(node));
    default:
      return evaluate_collection(node);
  }
}

Value Renderer::evaluate_collection(const Expression& node) {
  if (node.kind == ExpressionKind::kConcat) {
    std::string text;
    for (const ExpressionPtr& part : node.items) {
      text += to_text(evaluate(*part));
      check_text_size(text.size());
    }
    return Value(std::move(text));
  }
  if (node.kind == ExpressionKind::kDict) {
    DictBuilder dict;
    for (std::size_t i = 0; i < node.items.size(); i += 2) {
      const Value key = evaluate(*node.items[i]);
      dict.set(key, evaluate(*node.items[i + 1]));
    }
    return dict.build();
  }
  Values items;
  for (const ExpressionPtr& part : node.items) items.push_back(evaluate(*part));
  return node.kind == ExpressionKind::kList ? make_list(std::move(items)) : make_tuple(std::move(items));
}

Value Renderer::evaluate_slice(const Expression& node) {
  const Value value = evaluate(*node.items[0]);
  const auto bound = [&](std::size_t i) -> std::optional<std::int64_t> {
    if (node.items[i] == nullptr) return std::nullopt;
    const Value found = evaluate(*node.items[i]);
    if (found.is<None>()) return std::nullopt;
    if (found.is<Undefined>())
      runtime_error("slice indices must be integers: {}", *found.as<Undefined>()->why);
    return need_integer(found, "a slice's bound");
  };
  SliceBounds bounds;
  bounds.start = bound(1);
  bounds.stop = bound(2);
  bounds.step = bound(3);
  return slice(value, bounds);
}

bool Renderer::evaluate_compare(const Expression& node) {
  Value left = evaluate(*node.items[0]);
  for (std::size_t i = 0; i < node.operators.size(); ++i) {
    Value right = evaluate(*node.items[i + 1]);
    if (!compare(node.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

bool Renderer::compare(const std::string& op, const Value& a, const Value& b) {
  work_ += std::min(a.extent().weight, b.extent().weight);
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "in") return contains(*this, b, a);
  if (op == "not in") return !contains(*this, b, a);
  // Of two numbers one may be "not a number": no order holds then.
  if (number_of(a) && number_of(b)) {
    const auto order = compare_numbers(a, b);
    return order && (op == "<"    ? *order < 0
                     : op == "<=" ? *order <= 0
                     : op == ">"  ? *order > 0
                                  : *order >= 0);
  }
  if (op == "<") return less(a, b);
  if (op == ">") return less(b, a);
  if (op == "<=") return !less(b, a);
  return !less(a, b);
}

Arguments Renderer::evaluate_arguments(const CallArguments& arguments) {
  Arguments result;
  for (const ExpressionPtr& node : arguments.positional) result.positional.push_back(evaluate(*node));
  if (arguments.rest) {
    for (Value& value : items_of(*this, evaluate(*arguments.rest)))
      result.positional.push_back(std::move(value));
  }
  for (const auto& [name, node] : arguments.keywords) result.keywords.emplace_back(name, evaluate(*node));
  if (!arguments.rest_keywords) return result;
  const Value rest = evaluate(*arguments.rest_keywords);
  if (!rest.is<Dict>()) runtime_error("argument after ** must be a mapping, not {}", type_name(rest));
  for (const auto& [key, value] : rest.as<Dict>()->items()) {
    const std::string& name = need_text(key, "a keyword argument's name").bytes();
    for (const auto& [other, unused] : result.keywords) {
      if (other == name) runtime_error("got multiple values for keyword argument '{}'", name);
    }
    result.keywords.emplace_back(name, value);
  }
  return result;
}

Value Renderer::evaluate_filter(const Expression& node, const Value* block) {
  const Expression* inner = node.items[0].get();
  Value input;
  if (inner == nullptr) {
    input = *block;
  } else if (block != nullptr && inner->kind == ExpressionKind::kFilter) {
    input = evaluate_filter(*inner, block);
  } else {
    input = evaluate(*inner);
  }
  return call_filter(node.text, input, evaluate_arguments(node.arguments));
}

Value Renderer::call_filter(const std::string& name, const Value& input, const Arguments& arguments) {
  const Filter* filter = find_filter(name);
  if (filter == nullptr) runtime_error("No filter named '{}'", name);
  if (filter->body == nullptr) unsupported("the filter '{}'", name);
  charge(input);
  return filter->body(*this, input, arguments);
}

bool Renderer::call_test(const std::string& name, const Value& input, const Arguments& arguments) {
  const Test* test = find_test(name);
  if (test == nullptr) runtime_error("No test named '{}'", name);
  charge(input);
  return test->body(*this, input, arguments);
}

Value Renderer::call(const Value& function, const Arguments& arguments) {
  if (function.is<Undefined>()) runtime_error("{}", *function.as<Undefined>()->why);
  const ObjectPtr* object = function.as<ObjectPtr>();
  if (object == nullptr) runtime_error("'{}' object is not callable", type_name(function));
  return (*object)->call(*this, arguments);
}

Value Renderer::attribute(const Value& value, const std::string& name) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  const ObjectPtr* object = value.as<ObjectPtr>();
  auto found = object != nullptr ? (*object)->attribute(*this, name) : builtin_attribute(value, name);
  if (!found) found = subscript(value, Value(name));
  if (found) return *found;
  return undefined_value(fmt::format("'{} object' has no attribute '{}'", type_name(value), name));
}

Value Renderer::item(const Value& value, const Value& key) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (const auto found = subscript(value, key)) return *found;
  if (const std::string* name = key.text()) {
    const ObjectPtr* object = value.as<ObjectPtr>();
    const auto found =
        object != nullptr ? (*object)->attribute(*this, *name) : builtin_attribute(value, *name);
    if (found) return *found;
    return undefined_value(fmt::format("'{} object' has no attribute '{}'", type_name(value), *name));
  }
  return undefined_value(fmt::format("{} object has no such element", type_name(value)));
}

// As jinja2's Macro.__call__ gives the parameters their values.
Value Renderer::call_macro(const Function& function, Activation* defined_in, const Arguments& arguments) {
  const Depth depth(*this);
  const std::string name = function.name.empty() ? "None" : "'" + function.name + "'";
  Activation* activation = activate(function.num_slots, defined_in);
  const auto at = [&](int index) -> Value& { return activation->slots[static_cast<std::size_t>(index)]; };
  std::vector<std::pair<std::string, Value>> keywords = arguments.keywords;
  const auto take = [&](std::string_view key) -> std::optional<Value> {
    const auto found =
        std::find_if(keywords.begin(), keywords.end(), [&](const auto& k) { return k.first == key; });
    if (found == keywords.end()) return std::nullopt;
    Value value = found->second;
    keywords.erase(found);
    return value;
  };
  const std::size_t num_given = std::min(arguments.positional.size(), function.parameters.size());
  for (std::size_t i = 0; i < function.parameters.size(); ++i) {
    const Parameter& parameter = function.parameters[i];
    at(parameter.slot) =
        i < num_given ? arguments.positional[i] : take(parameter.name).value_or(Value(Missing{}));
  }
  if (function.caller_slot >= 0) {
    const auto caller = take("caller");
    at(function.caller_slot) = caller && !caller->is<None>() ? *caller : undefined_value("No caller defined");
  }
  if (function.kwargs_slot >= 0) {
    DictBuilder rest;
    for (const auto& [key, value] : keywords) rest.set(key, value);
    at(function.kwargs_slot) = rest.build();
  } else if (!keywords.empty()) {
    runtime_error("macro {} takes no keyword argument '{}'", name, keywords[0].first);
  }
  if (function.varargs_slot >= 0) {
    at(function.varargs_slot) = make_tuple(
        {arguments.positional.begin() + static_cast<std::ptrdiff_t>(num_given), arguments.positional.end()});
  } else if (arguments.positional.size() > num_given) {
    runtime_error("macro {} takes not more than {} argument(s)", name, function.parameters.size());
  }
  Activation* outer = std::exchange(activation_, activation);
  std::string text;
  std::string* outer_output = std::exchange(output_, &text);
  enter(function.scope);
  for (const Parameter& parameter : function.parameters) {
    if (!at(parameter.slot).is<Missing>()) continue;
    at(parameter.slot) =
        parameter.value ? evaluate(*parameter.value)
                        : undefined_value(fmt::format("parameter '{}' was not provided", parameter.name));
  }
  execute(function.body);
  activation_ = outer;
  output_ = outer_output;
  return Value(std::move(text));
}

}  // namespace swiftprune::templates
