// Values of a template as Python has them: what jinja2 computes with. Lists, tuples, dicts and strings never
// change once made (transformers renders in an immutable sandbox); only namespaces, loops and the like do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "swiftprune/templates/template_error.h"

namespace swiftprune::templates {

class Value;
class Renderer;
using Values = std::vector<Value>;

// Containers in containers; what walks them recurses so deep.
inline constexpr int kMaxValueDepth = 128;
// Values and bytes of text that a walk through one value meets: a list of a list twice, and so on, grows
// exponentially when it is printed.
inline constexpr std::int64_t kMaxValueWeight = std::int64_t{1} << 26;

struct None {};
// A variable that has not been set: internal, becomes Undefined when it is read.
struct Missing {};
// jinja2's default Undefined; `why` is the message of whatever is done with it.
struct Undefined {
  std::shared_ptr<const std::string> why;
};

// UTF-8, well formed. markup: marked by |safe or |escape, so that `+` escapes the other side.
class Text {
 public:
  explicit Text(std::string bytes, bool markup = false);
  const std::string& bytes() const { return data_->bytes; }
  std::int64_t length() const { return data_->length; }  // code points
  bool ascii() const { return data_->length == static_cast<std::int64_t>(data_->bytes.size()); }
  bool markup() const { return markup_; }
  Text with_markup(bool markup) const;

 private:
  struct Data {
    std::string bytes;
    std::int64_t length;
  };
  std::shared_ptr<const Data> data_;
  bool markup_;
};

struct Extent {
  int depth = 0;
  std::int64_t weight = 1;
  // Of something that holds this as well. Error{kLimit} beyond the limits above.
  void add(const Extent& held);
};

struct Sequence {
  Values items;
  Extent extent;
};
struct List {
  std::shared_ptr<const Sequence> data;
};
struct Tuple {
  std::shared_ptr<const Sequence> data;
  bool group = false;  // of groupby: .grouper and .list
};

// Insertion order; keys are equal as Python's are (1, 1.0 and True are one key).
class Dict {
 public:
  struct Data;
  Dict();
  const std::vector<std::pair<Value, Value>>& items() const;
  std::size_t size() const;
  const Value* find(const Value& key) const;  // Error for keys that Python cannot hash
  const Value* find(std::string_view key) const;
  Extent extent() const;
  bool same(const Dict& other) const { return data_ == other.data_; }

 private:
  friend class DictBuilder;
  explicit Dict(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

class DictBuilder {
 public:
  DictBuilder();
  explicit DictBuilder(const Dict& from);
  void set(const Value& key, const Value& value);  // the last value stays, at the first one's place
  void set(std::string_view key, const Value& value);
  bool add(const Value& key);  // with None; false: it is there already
  void erase(std::string_view key);
  Dict build();

 private:
  std::shared_ptr<Dict::Data> data_;
};

class Object;
struct Arguments;
using ObjectPtr = std::shared_ptr<Object>;

class Value {
 public:
  using Variant =
      std::variant<Missing, Undefined, None, bool, std::int64_t, double, Text, List, Tuple, Dict, ObjectPtr>;
  Value() : data_(None{}) {}
  // In value.cpp: a variant's copy is much code.
  Value(const Value&);
  Value(Value&&) noexcept;
  Value& operator=(const Value&);
  Value& operator=(Value&&) noexcept;
  ~Value();
  explicit Value(bool x) : data_(x) {}
  explicit Value(std::int64_t x) : data_(x) {}
  explicit Value(int x) : data_(std::int64_t{x}) {}
  explicit Value(double x) : data_(x) {}
  explicit Value(std::string text) : data_(Text(std::move(text))) {}
  explicit Value(std::string_view text) : data_(Text(std::string(text))) {}
  explicit Value(const char* text) : data_(Text(std::string(text))) {}
  Value(Undefined x) : data_(std::move(x)) {}
  Value(Missing x) : data_(x) {}
  Value(Text x) : data_(std::move(x)) {}
  Value(List x) : data_(std::move(x)) {}
  Value(Tuple x) : data_(std::move(x)) {}
  Value(Dict x) : data_(std::move(x)) {}
  Value(ObjectPtr x) : data_(std::move(x)) {}

  template <class T>
  const T* as() const {
    return std::get_if<T>(&data_);
  }
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  const Object* object() const { return is<ObjectPtr>() ? as<ObjectPtr>()->get() : nullptr; }
  template <class T>
  T* object_as() const {
    return is<ObjectPtr>() ? dynamic_cast<T*>(as<ObjectPtr>()->get()) : nullptr;
  }
  // Items of a list or tuple.
  const Values* sequence() const;
  const std::string* text() const { return is<Text>() ? &as<Text>()->bytes() : nullptr; }
  Extent extent() const;

 private:
  Variant data_;
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

// Everything else: ranges, views, generators, functions, namespaces, loops.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type() const = 0;  // Python's name of the class
  virtual Extent extent() const { return {1, 1}; }
  // Nothing: there is no such attribute.
  virtual std::optional<Value> attribute(Renderer&, const std::string&) { return std::nullopt; }
  virtual bool callable() const { return false; }
  virtual Value call(Renderer& renderer, const Arguments& arguments);
  // A source of items; nothing: not iterable.
  using Next = std::function<bool(Value&)>;
  virtual std::optional<Next> iterate() { return std::nullopt; }
  virtual std::optional<std::int64_t> length() { return std::nullopt; }
  virtual std::optional<Value> item(std::int64_t) {
    return std::nullopt;
  }                                                                   // of sequences, 0 <= index < length
  virtual std::optional<std::string> repr() { return std::nullopt; }  // nothing: an address in Python
  virtual bool is_sequence() const { return false; }                  // has items by index
};
Value undefined_value(std::string why);
Value make_list(Values items);  // Error{kLimit} beyond the limits above
Value make_tuple(Values items);

// Python's name of the type, for messages.
std::string type_name(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
// a < b; Error for types that Python cannot order.
bool less(const Value& a, const Value& b);
// -1, 0, 1; nothing: not a number. Exact between integers and floats.
std::optional<int> compare_numbers(const Value& a, const Value& b);
bool identical(const Value& a, const Value& b);  // Python's `is`, as far as a template can tell
bool hashable(const Value& value);

// Numbers in Python's sense: bool counts.
std::optional<std::int64_t> integer_of(const Value& value);  // bool and int
std::optional<double> number_of(const Value& value);         // bool, int and float
// An index or a count; Error naming `what` otherwise.
std::int64_t need_integer(const Value& value, std::string_view what);
const Text& need_text(const Value& value, std::string_view what);

// A source of the value's items; Error: not iterable.
Object::Next iterate(const Value& value);
bool iterable(const Value& value);
Values items_of(Renderer& renderer, const Value& value);  // all of them; every one is a step
std::optional<std::int64_t> length_of(const Value& value);
bool contains(Renderer& renderer, const Value& container, const Value& item);

// Python's str() and repr(); Error for values that print their address.
std::string to_text(const Value& value);
std::string repr(const Value& value);
std::string repr_of_text(std::string_view text);
std::string repr_of_float(double x);

}  // namespace swiftprune::templates
