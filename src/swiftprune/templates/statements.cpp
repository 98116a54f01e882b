// The statements of a template.
#include <algorithm>
#include <utility>

#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"
#include "swiftprune/templates/renderer.h"

namespace swiftprune::templates {

Renderer::Flow Renderer::execute(const Body& body) {
  for (const Statement& statement : body) {
    const Flow flow = execute(statement);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Renderer::Flow Renderer::execute(const Statement& statement) {
  try {
    step();
    if (++depth_ > options_.limits.depth)
      limit_error("macros and tags are nested deeper than {} levels", options_.limits.depth);
    Flow flow = Flow::kNormal;
    switch (statement.kind) {
      case StatementKind::kOutput:
        for (const ExpressionPtr& node : statement.expressions) write(to_text(evaluate(*node)));
        break;
      case StatementKind::kIf:
        flow = execute_if(statement);
        break;
      case StatementKind::kFor:
        flow = execute_for(statement);
        break;
      case StatementKind::kSet:
        execute_set(statement);
        break;
      case StatementKind::kSetBlock:
      case StatementKind::kFilterBlock:
      case StatementKind::kWith:
        flow = execute_block(statement);
        break;
      case StatementKind::kMacro:
        slot(statement.slot) = Value(ObjectPtr(std::make_shared<Macro>(*statement.function, activation_)));
        break;
      case StatementKind::kCallBlock:
        execute_call(statement);
        break;
      case StatementKind::kGeneration:
        write(to_text(call_macro(*statement.function, activation_, {})));
        break;
      case StatementKind::kBreak:
        flow = Flow::kBreak;
        break;
      case StatementKind::kContinue:
        flow = Flow::kContinue;
        break;
    }
    --depth_;
    return flow;
  } catch (const TemplateError& error) {
    if (error.line() > 0) throw;
    throw TemplateError(error.what_stopped(), error.message(), statement.line);
  }
}

Renderer::Flow Renderer::execute_if(const Statement& statement) {
  for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
    if (truth(evaluate(*statement.expressions[i]))) return execute(statement.bodies[i]);
  }
  return execute(statement.bodies.back());
}

// The items that pass the test of a for. It runs in the function that the loop stands in, whoever asks.
Object::Next Renderer::tested_items(const Statement& statement, Object::Next items) {
  return [this, &statement, items = std::move(items), activation = activation_,
          started = false](Value& item) mutable {
    Activation* const outer = std::exchange(activation_, activation);
    if (!std::exchange(started, true)) enter(statement.test_scope);
    bool found = false;
    while (!found && items(item)) {
      step();
      assign(*statement.test_target, item);
      found = truth(evaluate(*statement.test));
    }
    activation_ = outer;
    return found;
  };
}

Renderer::Flow Renderer::execute_for(const Statement& statement) {
  const Value iterable = evaluate(*statement.expressions[0]);
  Object::Next items = iterate(iterable);
  if (statement.test) items = tested_items(statement, std::move(items));
  std::shared_ptr<LoopContext> loop;
  if (statement.loop_slot >= 0) {
    loop =
        std::make_shared<LoopContext>(std::move(items), statement.test ? std::nullopt : length_of(iterable));
  }
  struct End {
    LoopContext* loop;
    ~End() {
      if (loop != nullptr) loop->end();
    }
  } const end{loop.get()};
  // jinja2's mark for `else`: whether the end of the body was reached once; continue and break do not reach
  // it.
  bool completed = false;
  for (Value item; loop ? loop->next(item) : items(item);) {
    step();
    assign(*statement.targets[0], item);
    if (loop) slot({0, statement.loop_slot}) = Value(ObjectPtr(loop));
    enter(statement.scope);
    const Flow flow = execute(statement.bodies[0]);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed = true;
  }
  leave(statement.scope);
  if (completed || statement.bodies[1].empty()) return Flow::kNormal;
  enter(statement.else_scope);
  const Flow flow = execute(statement.bodies[1]);
  leave(statement.else_scope);
  return flow;
}

Renderer::Flow Renderer::execute_block(const Statement& statement) {
  enter(statement.scope);
  if (statement.kind == StatementKind::kWith) {
    execute_with_targets(statement);
    const Flow flow = execute(statement.bodies[0]);
    leave(statement.scope);
    return flow;
  }
  std::string text;
  std::string* const outer = std::exchange(output_, &text);
  const Flow flow = execute(statement.bodies[0]);
  output_ = outer;
  if (flow != Flow::kNormal) return flow;  // a break or continue: the text is lost
  Value value(std::move(text));
  if (statement.filter) value = evaluate_filter(*statement.filter, &value);
  if (statement.kind == StatementKind::kSetBlock) {
    assign(*statement.targets[0], value);
  } else {
    write(to_text(value));
  }
  leave(statement.scope);
  return Flow::kNormal;
}

void Renderer::execute_with_targets(const Statement& statement) {
  for (std::size_t i = 0; i < statement.targets.size(); ++i) {
    assign(*statement.targets[i], evaluate(*statement.expressions[i]));
  }
}

void Renderer::execute_set(const Statement& statement) {
  assign(*statement.targets[0], evaluate(*statement.expressions[0]));
}

void Renderer::execute_call(const Statement& statement) {
  const Expression& node = *statement.expressions[0];
  const Value function = evaluate(*node.items[0]);
  Arguments arguments = evaluate_arguments(node.arguments);
  for (const auto& [name, value] : arguments.keywords) {
    if (name == "caller") runtime_error("a call block gives the argument 'caller' itself");
  }
  arguments.keywords.emplace_back(
      "caller", Value(ObjectPtr(std::make_shared<Macro>(*statement.function, activation_))));
  write(to_text(call(function, arguments)));
}

void Renderer::assign(const Expression& target, const Value& value) {
  if (target.kind == ExpressionKind::kName) {
    slot(target.slot) = value;
    return;
  }
  if (target.kind == ExpressionKind::kNamespaceRef) {
    Namespace* const names = slot(target.slot).object_as<Namespace>();
    if (names == nullptr) runtime_error("cannot assign attribute on non-namespace object '{}'", target.text);
    names->set(target.attribute, value);
    return;
  }
  const Values items = items_of(*this, value);
  if (items.size() != target.items.size()) {
    runtime_error("cannot unpack: found {} values, expected {}", items.size(), target.items.size());
  }
  for (std::size_t i = 0; i < items.size(); ++i) assign(*target.items[i], items[i]);
}

}  // namespace swiftprune::templates
