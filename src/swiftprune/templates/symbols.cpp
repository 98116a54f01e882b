#include "swiftprune/templates/symbols.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "swiftprune/templates/filters.h"

namespace swiftprune::templates {
namespace {

[[noreturn]] void fail(int line, const std::string& message) {
  throw TemplateError(TemplateError::Kind::kSyntax, message, line);
}

// A function while its names are resolved. A variable is known by its scope's level and its name.
struct FunctionScope {
  int depth = 0;  // functions around it
  std::map<std::pair<int, std::string>, int> slots;

  int slot(int level, const std::string& name) {
    return slots.emplace(std::pair(level, name), static_cast<int>(slots.size())).first->second;
  }
};

struct Reference {
  FunctionScope* function = nullptr;
  int index = -1;
  bool operator<(const Reference& other) const {
    return std::tie(function, index) < std::tie(other.function, other.index);
  }
};

struct Load {
  enum class Kind { kParameter, kContext, kOuter, kMissing };
  Kind kind = Kind::kMissing;
  std::string name;
  Reference from;
};

// The symbols of one scope.
class Symbols {
 public:
  Symbols(const Symbols* parent, FunctionScope* function, int level)
      : parent_(parent), function_(function), level_(level) {}

  std::optional<Reference> find(const std::string& name) const {
    const auto found = references_.find(name);
    if (found != references_.end()) return found->second;
    return parent_ == nullptr ? std::nullopt : parent_->find(name);
  }

  Reference declare_parameter(const std::string& name) {
    stores_.insert(name);
    return define(name, {Load::Kind::kParameter, {}, {}});
  }
  void load(const std::string& name) {
    if (!find(name)) define(name, {Load::Kind::kContext, name, {}});
  }
  void store(const std::string& name) {
    stores_.insert(name);
    if (references_.contains(name)) return;
    if (parent_ != nullptr) {
      if (const auto outer = parent_->find(name)) {
        define(name, {Load::Kind::kOuter, {}, *outer});
        return;
      }
    }
    define(name, {Load::Kind::kMissing, {}, {}});
  }
  // After the branches of an `if`: what one of them assigns may come from outside in the others.
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> stores;
    for (const Symbols& branch : branches) stores.insert(branch.stores_.begin(), branch.stores_.end());
    for (const std::string& name : stores_) stores.erase(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, reference] : branch.references_) references_[name] = reference;
      for (const auto& [reference, load] : branch.loads_) loads_[reference] = load;
      stores_.insert(branch.stores_.begin(), branch.stores_.end());
    }
    for (const std::string& name : stores) {
      const auto outer = parent_ == nullptr ? std::nullopt : parent_->find(name);
      loads_[*find(name)] =
          outer ? Load{Load::Kind::kOuter, {}, *outer} : Load{Load::Kind::kContext, name, {}};
    }
  }

  FunctionScope* function() const { return function_; }
  int level() const { return level_; }

  Slot slot_of(const Reference& reference) const {
    return {function_->depth - reference.function->depth, reference.index};
  }
  Scope scope() const {
    Scope result;
    for (const auto& [reference, load] : loads_) {
      if (load.kind == Load::Kind::kParameter) continue;
      SlotLoad entry{SlotLoad::Kind::kMissing, reference.index, load.name, {}};
      if (load.kind == Load::Kind::kContext) entry.kind = SlotLoad::Kind::kContext;
      if (load.kind == Load::Kind::kOuter) {
        entry.kind = SlotLoad::Kind::kOuter;
        entry.from = slot_of(load.from);
      }
      result.push_back(std::move(entry));
    }
    return result;
  }

 private:
  Reference define(const std::string& name, Load load) {
    const Reference reference{function_, function_->slot(level_, name)};
    references_[name] = reference;
    loads_[reference] = std::move(load);
    return reference;
  }

  const Symbols* parent_;
  FunctionScope* function_;
  int level_;
  std::map<std::string, Reference> references_;
  std::map<Reference, Load> loads_;
  std::set<std::string> stores_;
};

// Calls use(part) for each expression in an expression.
template <class Use>
void for_each_part(const CallArguments& arguments, const Use& use) {
  for (const ExpressionPtr& item : arguments.positional) use(*item);
  for (const auto& [name, value] : arguments.keywords) use(*value);
  if (arguments.rest) use(*arguments.rest);
  if (arguments.rest_keywords) use(*arguments.rest_keywords);
}
template <class Use>
void for_each_part(const Expression& node, const Use& use) {
  for (const ExpressionPtr& item : node.items) {
    if (item) use(*item);
  }
  for_each_part(node.arguments, use);
}

// What an expression does to a scope's symbols.
void visit(const Expression& node, Symbols& symbols) {
  if (node.kind == ExpressionKind::kName) {
    node.store ? symbols.store(node.text) : symbols.load(node.text);
  } else if (node.kind == ExpressionKind::kNamespaceRef) {
    symbols.load(node.text);
  }
  for_each_part(node, [&](const Expression& part) { visit(part, symbols); });
}

void declare_targets(const Expression& node, Symbols& symbols) {
  if (node.kind == ExpressionKind::kName) symbols.declare_parameter(node.text);
  for (const ExpressionPtr& item : node.items) declare_targets(*item, symbols);
}

void visit(const Body& body, Symbols& symbols);

// What a statement does to the symbols of the scope that it stands in: not what happens in its own scopes.
void visit(const Statement& statement, Symbols& symbols) {
  switch (statement.kind) {
    case StatementKind::kIf: {
      // An elif is an `if` in a branch of its own that all elifs share.
      visit(*statement.expressions[0], symbols);
      std::vector<Symbols> branches(3, symbols);
      visit(statement.bodies[0], branches[0]);
      for (std::size_t i = 1; i < statement.expressions.size(); ++i) {
        visit(*statement.expressions[i], branches[1]);
        std::vector<Symbols> inner(3, branches[1]);
        visit(statement.bodies[i], inner[0]);
        branches[1].merge(inner);
      }
      visit(statement.bodies.back(), branches[2]);
      symbols.merge(branches);
      break;
    }
    case StatementKind::kMacro:
      symbols.store(statement.function->name);
      break;
    case StatementKind::kFilterBlock:
      visit(*statement.filter, symbols);
      break;
    case StatementKind::kSet:
      visit(*statement.expressions[0], symbols);
      visit(*statement.targets[0], symbols);
      break;
    case StatementKind::kSetBlock:
      visit(*statement.targets[0], symbols);
      break;
    default:  // output; the iterable of a for, the values of a with, the call of a call block
      for (const ExpressionPtr& node : statement.expressions) visit(*node, symbols);
  }
}

void visit(const Body& body, Symbols& symbols) {
  for (const Statement& statement : body) visit(statement, symbols);
}

// Whether the name is read anywhere in here, inner functions included, before it is assigned.
class UndeclaredName {
 public:
  explicit UndeclaredName(std::string name) : name_(std::move(name)) {}
  bool in(const Body& body) {
    look(body);
    return found_;
  }

 private:
  void look(const Expression& node) {
    if (done()) return;
    if (node.kind == ExpressionKind::kName && node.text == name_) (node.store ? declared_ : found_) = true;
    for_each_part(node, [&](const Expression& part) { look(part); });
  }
  void look(const ExpressionPtr& node) {
    if (node) look(*node);
  }
  void look(const std::vector<ExpressionPtr>& nodes) {
    for (const ExpressionPtr& node : nodes) look(node);
  }
  void look_at_function(const Statement& statement) {
    for (const Parameter& parameter : statement.function->parameters) {
      if (!done() && parameter.name == name_) declared_ = true;
    }
    for (const Parameter& parameter : statement.function->parameters) look(parameter.value);
    look(statement.function->body);
  }
  void look(const Body& body) {
    for (const Statement& statement : body) {
      if (done()) return;
      const bool set = statement.kind == StatementKind::kSet || statement.kind == StatementKind::kSetBlock ||
                       statement.kind == StatementKind::kFor || statement.kind == StatementKind::kWith;
      if (set) look(statement.targets);
      if (statement.kind == StatementKind::kIf) {
        look_at_if(statement);
        continue;
      }
      look(statement.expressions);
      // The order of jinja2's fields.
      if (statement.kind == StatementKind::kSetBlock) look(statement.filter);
      for (const Body& inner : statement.bodies) look(inner);
      if (statement.kind == StatementKind::kFilterBlock) look(statement.filter);
      look(statement.test);
      if (statement.function) look_at_function(statement);
    }
  }
  void look_at_if(const Statement& statement) {
    for (std::size_t i = 0; i < statement.bodies.size(); ++i) {
      if (i < statement.expressions.size()) look(statement.expressions[i]);
      look(statement.bodies[i]);
    }
  }
  bool done() const { return found_ || declared_; }

  std::string name_;
  bool found_ = false, declared_ = false;
};

class Resolver {
 public:
  Function run(Body body) {
    Function function;
    function.body = std::move(body);
    FunctionScope scope;
    Symbols symbols(nullptr, &scope, 0);
    visit(function.body, symbols);
    resolve(function.body, {&symbols, false});
    function.scope = symbols.scope();
    function.num_slots = static_cast<int>(scope.slots.size());
    return function;
  }

 private:
  // soft: inside an `if`, where an unknown filter is an error only when it is reached.
  struct Frame {
    const Symbols* symbols;
    bool soft;
  };

  static Symbols inner(const Symbols& outer) { return Symbols(&outer, outer.function(), outer.level() + 1); }

  void resolve(Body& body, Frame frame) {
    for (Statement& statement : body) resolve(statement, frame);
  }

  static Slot reference(const Symbols& symbols, const std::string& name, int line) {
    const auto found = symbols.find(name);
    if (!found) fail(line, fmt::format("the name '{}' is unknown in the filter of a block", name));
    return symbols.slot_of(*found);
  }

  void resolve(Expression& node, Frame frame) {
    if (node.kind == ExpressionKind::kName || node.kind == ExpressionKind::kNamespaceRef) {
      node.slot = reference(*frame.symbols, node.text, node.line);
    }
    const bool filter = node.kind == ExpressionKind::kFilter;
    if ((filter || node.kind == ExpressionKind::kTest) && !frame.soft) {
      if (!(filter ? knows_filter(node.text) : knows_test(node.text)))
        fail(node.line, fmt::format("No {} named '{}'", filter ? "filter" : "test", node.text));
    }
    if (node.kind == ExpressionKind::kCondition) frame.soft = true;
    for_each_part(node, [&](Expression& part) { resolve(part, frame); });
  }
  void resolve(const std::vector<ExpressionPtr>& nodes, Frame frame) {
    for (const ExpressionPtr& node : nodes) resolve(*node, frame);
  }

  void resolve(Statement& statement, Frame frame) {
    switch (statement.kind) {
      case StatementKind::kOutput:
      case StatementKind::kSet:
        resolve(statement.expressions, frame);
        resolve(statement.targets, frame);
        break;
      case StatementKind::kIf:
        frame.soft = true;
        resolve(statement.expressions, frame);
        for (Body& body : statement.bodies) resolve(body, frame);
        break;
      case StatementKind::kFor:
        resolve_for(statement, frame);
        break;
      case StatementKind::kSetBlock:
        resolve_set_block(statement, frame);
        break;
      case StatementKind::kFilterBlock:
        resolve_filter_block(statement, frame);
        break;
      case StatementKind::kWith:
        resolve_with(statement, frame);
        break;
      case StatementKind::kMacro:
        resolve_function(*statement.function, *frame.symbols, statement.line);
        statement.slot = reference(*frame.symbols, statement.function->name, statement.line);
        break;
      case StatementKind::kCallBlock:
      case StatementKind::kGeneration:
        resolve_function(*statement.function, *frame.symbols, statement.line);
        resolve(statement.expressions, frame);
        break;
      case StatementKind::kBreak:
      case StatementKind::kContinue:
        break;
    }
  }

  void resolve_for(Statement& statement, Frame frame) {
    Symbols loop = inner(*frame.symbols);
    if (UndeclaredName("loop").in(statement.bodies[0])) {
      statement.loop_slot = loop.declare_parameter("loop").index;
    }
    declare_targets(*statement.targets[0], loop);
    visit(statement.bodies[0], loop);
    forbid_storing_loop(statement);
    Symbols other = inner(*frame.symbols);
    visit(statement.bodies[1], other);
    if (statement.test) {
      // The test runs in a function of its own: its variables are not the loop's. Levels below 0 name them.
      Symbols test(frame.symbols, frame.symbols->function(), --test_level_);
      declare_targets(*statement.test_target, test);
      visit(*statement.test, test);
      resolve(*statement.test, {&test, false});
      resolve(*statement.test_target, {&test, false});
      statement.test_scope = test.scope();
    }
    resolve(*statement.targets[0], {&loop, false});
    resolve(*statement.expressions[0], frame);
    resolve(statement.bodies[0], {&loop, false});
    resolve(statement.bodies[1], {&other, false});
    statement.scope = loop.scope();
    statement.else_scope = other.scope();
  }

  // jinja2 refuses it in the whole statement.
  static void forbid_storing_loop(const Statement& statement) {
    for (const ExpressionPtr& target : statement.targets) forbid_storing_loop(*target);
    for (const Body& body : statement.bodies) forbid_storing_loop(body);
    if (statement.function) forbid_storing_loop(statement.function->body);
  }
  static void forbid_storing_loop(const Body& body) {
    for (const Statement& inner_statement : body) forbid_storing_loop(inner_statement);
  }
  static void forbid_storing_loop(const Expression& target) {
    if (target.kind == ExpressionKind::kName && target.text == "loop")
      fail(target.line, "can't assign to the special variable 'loop' in a loop");
    for (const ExpressionPtr& item : target.items) forbid_storing_loop(*item);
  }

  void resolve_set_block(Statement& statement, Frame frame) {
    Symbols block = inner(*frame.symbols);
    visit(statement.bodies[0], block);
    resolve(statement.bodies[0], {&block, false});
    if (statement.filter) resolve(*statement.filter, {&block, false});
    resolve(statement.targets, frame);
    statement.scope = block.scope();
  }

  void resolve_filter_block(Statement& statement, Frame frame) {
    Symbols block = inner(*frame.symbols);
    visit(statement.bodies[0], block);
    visit(*statement.filter, block);
    resolve(statement.bodies[0], {&block, false});
    resolve(*statement.filter, {&block, false});
    statement.scope = block.scope();
  }

  void resolve_with(Statement& statement, Frame frame) {
    Symbols block = inner(*frame.symbols);
    for (const ExpressionPtr& target : statement.targets) declare_targets(*target, block);
    visit(statement.bodies[0], block);
    resolve(statement.targets, {&block, false});
    resolve(statement.expressions, frame);
    resolve(statement.bodies[0], {&block, false});
    statement.scope = block.scope();
  }

  void resolve_function(Function& function, const Symbols& outer, int line) {
    FunctionScope scope{outer.function()->depth + 1, {}};
    Symbols symbols(&outer, &scope, outer.level() + 1);
    for (Parameter& parameter : function.parameters) {
      parameter.slot = symbols.declare_parameter(parameter.name).index;
      if (parameter.name == "caller") function.explicit_caller = true;
    }
    for (const Parameter& parameter : function.parameters) {
      if (parameter.value) visit(*parameter.value, symbols);
    }
    visit(function.body, symbols);
    declare_special(function, symbols, line);
    for (const Parameter& parameter : function.parameters) {
      if (parameter.value) resolve(*parameter.value, {&symbols, false});
    }
    resolve(function.body, {&symbols, false});
    function.scope = symbols.scope();
    function.num_slots = static_cast<int>(scope.slots.size());
  }

  // caller, kwargs and varargs, where the body reads them.
  static void declare_special(Function& function, Symbols& symbols, int line) {
    const auto is_parameter = [&](std::string_view name) {
      return std::any_of(function.parameters.begin(), function.parameters.end(),
                         [&](const Parameter& parameter) { return parameter.name == name; });
    };
    if (UndeclaredName("caller").in(function.body)) {
      for (const Parameter& parameter : function.parameters) {
        if (parameter.name == "caller" && parameter.value == nullptr)
          fail(line, "the special argument 'caller' must be omitted or be given a default");
      }
      if (!function.explicit_caller) function.caller_slot = symbols.declare_parameter("caller").index;
    }
    if (UndeclaredName("kwargs").in(function.body) && !is_parameter("kwargs"))
      function.kwargs_slot = symbols.declare_parameter("kwargs").index;
    if (UndeclaredName("varargs").in(function.body) && !is_parameter("varargs"))
      function.varargs_slot = symbols.declare_parameter("varargs").index;
  }

  int test_level_ = 0;
};

}  // namespace

Function resolve_names(Body body) { return Resolver().run(std::move(body)); }

}  // namespace swiftprune::templates
