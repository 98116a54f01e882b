// One render of a template: walks the tree, keeps the variables and counts what it costs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "swiftprune/templates/syntax.h"
#include "swiftprune/templates/template.h"
#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

class Namespace;

// The variables of a running function. Macros keep the one that they were defined in.
struct Activation {
  Values slots;
  Activation* parent = nullptr;
};

class Renderer {
 public:
  Renderer(const Dict& context, const RenderOptions& options);
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;
  std::string run(const Function& root);

  // Costs; Error{kLimit} when they are spent.
  void step(std::int64_t steps = 1) {
    if ((steps_ += steps) > options_.limits.steps) spent();
  }
  void charge(const Value& value);

  Value call(const Value& function, const Arguments& arguments);
  // value.name and value[key] as the sandbox resolves them; Undefined when there is none.
  Value attribute(const Value& value, const std::string& name);
  Value item(const Value& value, const Value& key);
  Value call_filter(const std::string& name, const Value& input, const Arguments& arguments);
  bool call_test(const std::string& name, const Value& input, const Arguments& arguments);
  Value call_macro(const Function& function, Activation* defined_in, const Arguments& arguments);
  std::shared_ptr<Namespace> make_namespace(std::vector<std::pair<std::string, Value>> attributes);
  LocalTime now() const { return options_.now(); }

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  class Depth;
  [[noreturn]] void spent() const;

  Activation* activate(int num_slots, Activation* parent);
  void enter(const Scope& scope);
  void leave(const Scope& scope);
  Value& slot(const Slot& slot);
  Value from_context(const std::string& name) const;
  Value read(const Expression& name);

  Value evaluate(const Expression& node);
  Value evaluate_operation(const Expression& node);
  Value evaluate_collection(const Expression& node);
  Value evaluate_slice(const Expression& node);
  bool evaluate_compare(const Expression& node);
  bool compare(const std::string& op, const Value& a, const Value& b);
  Arguments evaluate_arguments(const CallArguments& arguments);
  // block: the text of a block, for a filter without input of its own.
  Value evaluate_filter(const Expression& node, const Value* block);

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow execute_if(const Statement& statement);
  Flow execute_for(const Statement& statement);
  Flow execute_block(const Statement& statement);
  void execute_with_targets(const Statement& statement);
  void execute_set(const Statement& statement);
  void execute_call(const Statement& statement);
  void assign(const Expression& target, const Value& value);
  Object::Next tested_items(const Statement& statement, Object::Next items);
  void write(std::string_view text);

  const Dict& context_;
  const RenderOptions& options_;
  std::int64_t steps_ = 0, work_ = 0;
  int depth_ = 0;
  std::string* output_ = nullptr;
  Activation* activation_ = nullptr;
  // Owned here and emptied at the end, since they may hold each other.
  std::vector<std::unique_ptr<Activation>> activations_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace swiftprune::templates
