// The values that are neither data nor text: functions, namespaces, loops, generators, ranges and views of
// dicts.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "swiftprune/templates/renderer.h"
#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

// Reads the arguments of a function of Python: by place, then by name.
class ArgumentReader {
 public:
  ArgumentReader(std::string_view function, const Arguments& arguments)
      : function_(function), arguments_(arguments), used_(arguments.keywords.size(), false) {}
  // The next parameter. Without a name: by place only.
  std::optional<Value> optional(std::string_view name);
  Value required(std::string_view name);
  Value value_or(std::string_view name, const Value& absent) { return optional(name).value_or(absent); }
  void done() const;  // Error: arguments are left

 private:
  std::string_view function_;
  const Arguments& arguments_;
  std::vector<bool> used_;
  std::size_t next_ = 0;
};

class Namespace : public Object {
 public:
  std::string type() const override { return "Namespace"; }
  std::optional<Value> attribute(Renderer&, const std::string& name) override;
  void set(const std::string& name, const Value& value);
  void clear() { attributes_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

// A function or a method of Python.
class Builtin : public Object {
 public:
  using Body = std::function<Value(Renderer&, const Arguments&)>;
  Builtin(std::string name, Body body, Extent held = {})
      : name_(std::move(name)), body_(std::move(body)), extent_{0, 1} {
    extent_.add(held);
  }
  std::string type() const override { return "builtin_function_or_method"; }
  Extent extent() const override { return extent_; }
  bool callable() const override { return true; }
  Value call(Renderer& renderer, const Arguments& arguments) override { return body_(renderer, arguments); }

 private:
  std::string name_;
  Body body_;
  Extent extent_;
};
Value make_builtin(std::string name, Builtin::Body body, const Value& held = Value());

class Macro : public Object {
 public:
  Macro(const Function& function, Activation* defined_in) : function_(function), defined_in_(defined_in) {}
  std::string type() const override { return "Macro"; }
  bool callable() const override { return true; }
  Value call(Renderer& renderer, const Arguments& arguments) override {
    return renderer.call_macro(function_, defined_in_, arguments);
  }
  std::optional<Value> attribute(Renderer&, const std::string& name) override;
  std::optional<std::string> repr() override;

 private:
  const Function& function_;
  Activation* defined_in_;
};

// Items that come once: what the filters map, select, ... return.
class Generator : public Object {
 public:
  Generator(Next next, Extent held, std::string type = "generator")
      : next_(std::move(next)), extent_{0, 1}, type_(std::move(type)) {
    extent_.add(held);
  }
  std::string type() const override { return type_; }
  Extent extent() const override { return extent_; }
  std::optional<Next> iterate() override {
    return [this](Value& item) { return next_(item); };
  }

 private:
  Next next_;
  Extent extent_;
  std::string type_;
};
Value make_generator(Object::Next next, const Value& source, const Arguments& arguments = {});

class Range : public Object {
 public:
  Range(std::int64_t start, std::int64_t stop, std::int64_t step);
  std::string type() const override { return "range"; }
  std::optional<Next> iterate() override;
  std::optional<std::int64_t> length() override { return length_; }
  std::optional<Value> item(std::int64_t index) override { return Value(start_ + index * step_); }
  std::optional<std::string> repr() override;
  bool is_sequence() const override { return true; }
  std::optional<Value> attribute(Renderer&, const std::string& name) override;
  Value slice(std::int64_t first, std::int64_t step, std::int64_t count) const;

 private:
  std::int64_t start_, stop_, step_, length_ = 0;
};

class DictView : public Object {
 public:
  enum class Part { kKeys, kValues, kItems };
  DictView(Dict dict, Part part) : dict_(std::move(dict)), part_(part), extent_{0, 1} {
    extent_.add(dict_.extent());
  }
  std::string type() const override;
  Extent extent() const override { return extent_; }
  std::optional<Next> iterate() override;
  std::optional<std::int64_t> length() override { return static_cast<std::int64_t>(dict_.size()); }
  std::optional<std::string> repr() override;

 private:
  Value at(std::size_t index) const;
  Dict dict_;
  Part part_;
  Extent extent_;
};

// `loop` in a for: items are looked at one ahead only where the template asks for the end.
class LoopContext : public Object {
 public:
  LoopContext(Next items, std::optional<std::int64_t> length) : items_(std::move(items)), length_(length) {}
  std::string type() const override { return "LoopContext"; }
  std::optional<Value> attribute(Renderer& renderer, const std::string& name) override;
  bool next(Value& item);
  // Forgets the items: a loop may be kept in a namespace, which could hold it.
  void end();

 private:
  bool peek();
  std::int64_t known_length(Renderer& renderer);
  Value function(const std::string& name);

  Next items_;
  std::optional<std::int64_t> length_;
  std::int64_t index_ = -1;
  std::optional<Value> after_, current_, before_, changed_;
  std::shared_ptr<const int> alive_ = std::make_shared<const int>(0);
};

// cycler(...) and joiner(...).
Value make_cycler(const Arguments& arguments);
Value make_joiner(const Arguments& arguments);

// The functions that every template finds: range, dict, namespace, cycler, joiner, raise_exception,
// strftime_now.
std::optional<Value> global(const std::string& name);

}  // namespace swiftprune::templates
