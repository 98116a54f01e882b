#include "swiftprune/templates/objects.h"

#include <algorithm>
#include <array>
#include <utility>

#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {
namespace {

constexpr std::int64_t kMaxRange = 100000;  // the sandbox's

Value make_range(Renderer&, const Arguments& arguments) {
  const Values& a = arguments.positional;
  if (!arguments.keywords.empty() || a.empty() || a.size() > 3)
    runtime_error("range expected 1 to 3 arguments");
  const auto at = [&](std::size_t i) { return need_integer(a[i], "range"); };
  return Value(ObjectPtr(std::make_shared<Range>(a.size() > 1 ? at(0) : 0, a.size() > 1 ? at(1) : at(0),
                                                 a.size() > 2 ? at(2) : 1)));
}

// The members that dict(...) and namespace(...) take: a mapping or pairs, then names.
Dict members(Renderer& renderer, std::string_view function, const Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    runtime_error("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  }
  DictBuilder dict;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const Dict* from = source.as<Dict>()) {
      dict = DictBuilder(*from);
    } else {
      for (const Value& pair : items_of(renderer, source)) {
        const Values parts = items_of(renderer, pair);
        if (parts.size() != 2)
          runtime_error("{}: found an element of length {}, expected 2", function, parts.size());
        dict.set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.keywords) dict.set(name, value);
  return dict.build();
}

Value make_dict(Renderer& renderer, const Arguments& arguments) {
  return members(renderer, "dict", arguments);
}

Value make_namespace(Renderer& renderer, const Arguments& arguments) {
  std::vector<std::pair<std::string, Value>> attributes;
  const Dict given = members(renderer, "namespace", arguments);
  for (const auto& [key, value] : given.items()) {
    if (key.text() == nullptr) unsupported("a namespace with a key of type '{}'", type_name(key));
    attributes.emplace_back(*key.text(), value);
  }
  return Value(ObjectPtr(renderer.make_namespace(std::move(attributes))));
}

Value raise_exception(Renderer&, const Arguments& arguments) {
  ArgumentReader reader("raise_exception", arguments);
  const Value message = reader.required("message");
  reader.done();
  throw TemplateError(TemplateError::Kind::kRaised, to_text(message));
}

Value strftime_now(Renderer& renderer, const Arguments& arguments) {
  ArgumentReader reader("strftime_now", arguments);
  const Value format = reader.required("format");
  reader.done();
  return Value(format_time(need_text(format, "strftime_now").bytes(), renderer.now()));
}

class Cycler : public Object {
 public:
  explicit Cycler(Values items) : items_(std::move(items)), extent_{0, 1} {
    if (items_.empty()) runtime_error("cycler: at least one item has to be provided");
    for (const Value& item : items_) extent_.add(item.extent());
  }
  std::string type() const override { return "Cycler"; }
  Extent extent() const override { return extent_; }
  std::optional<Value> attribute(Renderer&, const std::string& name) override {
    if (name == "current") return items_[position_];
    if (name == "next")
      return method([](Cycler& self) {
        const std::size_t now = std::exchange(self.position_, (self.position_ + 1) % self.items_.size());
        return self.items_[now];
      });
    if (name == "reset")
      return method([](Cycler& self) {
        self.position_ = 0;
        return Value();
      });
    if (name == "items" || name == "pos") unsupported("the attribute '{}' of a cycler", name);
    return std::nullopt;
  }
  std::weak_ptr<Object> own;

 private:
  Value method(Value (*body)(Cycler&)) {
    const ObjectPtr held = own.lock();
    return make_builtin("cycler", [held, body](Renderer&, const Arguments& arguments) {
      ArgumentReader("cycler", arguments).done();
      return body(static_cast<Cycler&>(*held));
    });
  }
  Values items_;
  std::size_t position_ = 0;
  Extent extent_;
};

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)), extent_{0, 1} {
    extent_.add(separator_.extent());
  }
  std::string type() const override { return "Joiner"; }
  Extent extent() const override { return extent_; }
  bool callable() const override { return true; }
  Value call(Renderer&, const Arguments& arguments) override {
    ArgumentReader("joiner", arguments).done();
    return std::exchange(used_, true) ? separator_ : Value("");
  }
  std::optional<Value> attribute(Renderer&, const std::string& name) override {
    if (name == "sep") return separator_;
    if (name == "used") return Value(used_);
    return std::nullopt;
  }

 private:
  Value separator_;
  bool used_ = false;
  Extent extent_;
};

}  // namespace

std::optional<Value> ArgumentReader::optional(std::string_view name) {
  const auto& keywords = arguments_.keywords;
  std::size_t found = keywords.size();
  for (std::size_t i = 0; i < keywords.size() && !name.empty(); ++i) {
    if (keywords[i].first == name) found = i;
  }
  if (next_ < arguments_.positional.size()) {
    if (found < keywords.size()) runtime_error("{}() got multiple values for argument '{}'", function_, name);
    return arguments_.positional[next_++];
  }
  ++next_;
  if (found == keywords.size()) return std::nullopt;
  used_[found] = true;
  return keywords[found].second;
}

Value ArgumentReader::required(std::string_view name) {
  if (auto value = optional(name)) return *value;
  runtime_error("{}() misses the argument '{}'", function_, name);
}

void ArgumentReader::done() const {
  if (arguments_.positional.size() > next_) {
    runtime_error("{}() takes at most {} arguments, {} given", function_, next_,
                  arguments_.positional.size());
  }
  for (std::size_t i = 0; i < used_.size(); ++i) {
    if (!used_[i])
      runtime_error("{}() got an unexpected keyword argument '{}'", function_, arguments_.keywords[i].first);
  }
}

std::optional<Value> Namespace::attribute(Renderer&, const std::string& name) {
  for (const auto& [key, value] : attributes_) {
    if (key == name) return value;
  }
  return std::nullopt;
}

void Namespace::set(const std::string& name, const Value& value) {
  if (name.starts_with('_')) {
    runtime_error("chat templates cannot store underscore-prefixed attributes on a namespace: found '{}'",
                  name);
  }
  for (auto& [key, held] : attributes_) {
    if (key == name) {
      held = value;
      return;
    }
  }
  attributes_.emplace_back(name, value);
}

Value make_builtin(std::string name, Builtin::Body body, const Value& held) {
  return Value(ObjectPtr(std::make_shared<Builtin>(std::move(name), std::move(body), held.extent())));
}

std::optional<Value> Macro::attribute(Renderer&, const std::string& name) {
  if (name == "name") return function_.name.empty() ? Value() : Value(function_.name);
  if (name == "arguments") {
    Values names;
    for (const Parameter& parameter : function_.parameters) names.emplace_back(parameter.name);
    return make_list(std::move(names));
  }
  if (name == "catch_kwargs") return Value(function_.kwargs_slot >= 0);
  if (name == "catch_varargs") return Value(function_.varargs_slot >= 0);
  if (name == "caller") return Value(function_.caller_slot >= 0 || function_.explicit_caller);
  if (name == "explicit_caller") return Value(function_.explicit_caller);
  return std::nullopt;
}

std::optional<std::string> Macro::repr() {
  return fmt::format("<Macro {}>", function_.name.empty() ? "anonymous" : repr_of_text(function_.name));
}

Value make_generator(Object::Next next, const Value& source, const Arguments& arguments) {
  Extent held = source.extent();
  for (const Value& value : arguments.positional) held.add(value.extent());
  for (const auto& [name, value] : arguments.keywords) held.add(value.extent());
  return Value(ObjectPtr(std::make_shared<Generator>(std::move(next), held)));
}

Range::Range(std::int64_t start, std::int64_t stop, std::int64_t step)
    : start_(start), stop_(stop), step_(step) {
  if (step == 0) runtime_error("range() arg 3 must not be zero");
  const std::uint64_t distance = step > 0
                                     ? static_cast<std::uint64_t>(stop) - static_cast<std::uint64_t>(start)
                                     : static_cast<std::uint64_t>(start) - static_cast<std::uint64_t>(stop);
  if (step > 0 ? start < stop : start > stop) {
    const std::uint64_t stride =
        step > 0 ? static_cast<std::uint64_t>(step) : -static_cast<std::uint64_t>(step);
    const std::uint64_t count = (distance - 1) / stride + 1;
    if (count > static_cast<std::uint64_t>(kMaxRange))
      runtime_error("Range too big. The sandbox blocks ranges larger than {}", kMaxRange);
    length_ = static_cast<std::int64_t>(count);
  }
}

std::optional<Object::Next> Range::iterate() {
  return [start = start_, step = step_, length = length_, i = std::int64_t{0}](Value& item) mutable {
    if (i == length) return false;
    item = Value(start + i++ * step);
    return true;
  };
}

std::optional<Value> Range::attribute(Renderer&, const std::string& name) {
  constexpr std::array<std::string_view, 5> kRefused = {"count", "index", "start", "step", "stop"};
  if (std::find(kRefused.begin(), kRefused.end(), name) != kRefused.end())
    unsupported("the attribute '{}' of a range", name);
  return std::nullopt;
}

std::optional<std::string> Range::repr() {
  return step_ == 1 ? fmt::format("range({}, {})", start_, stop_)
                    : fmt::format("range({}, {}, {})", start_, stop_, step_);
}

Value Range::slice(std::int64_t first, std::int64_t step, std::int64_t count) const {
  const std::int64_t start = checked_add(start_, checked_multiply(first, step_));
  const std::int64_t stride = checked_multiply(step, step_);
  if (count == 0) unsupported("an empty slice of a range");
  return Value(
      ObjectPtr(std::make_shared<Range>(start, checked_add(start, checked_multiply(stride, count)), stride)));
}

std::string DictView::type() const {
  return part_ == Part::kKeys ? "dict_keys" : part_ == Part::kValues ? "dict_values" : "dict_items";
}

Value DictView::at(std::size_t index) const {
  const auto& [key, value] = dict_.items()[index];
  return part_ == Part::kKeys ? key : part_ == Part::kValues ? value : make_tuple({key, value});
}

std::optional<Object::Next> DictView::iterate() {
  return [view = *this, i = std::size_t{0}](Value& item) mutable {
    if (i == view.dict_.size()) return false;
    item = view.at(i++);
    return true;
  };
}

std::optional<std::string> DictView::repr() {
  Values items;
  for (std::size_t i = 0; i < dict_.size(); ++i) items.push_back(at(i));
  return type() + "(" + templates::repr(make_list(std::move(items))) + ")";
}

bool LoopContext::peek() {
  if (after_) return true;
  Value item;
  if (!items_ || !items_(item)) return false;
  after_ = std::move(item);
  return true;
}

bool LoopContext::next(Value& item) {
  if (after_) {
    item = *std::exchange(after_, std::nullopt);
  } else if (!items_(item)) {
    return false;
  }
  ++index_;
  before_ = std::exchange(current_, item);
  return true;
}

void LoopContext::end() {
  items_ = nullptr;
  alive_ = nullptr;
  after_ = current_ = before_ = changed_ = std::nullopt;
}

// Of a generator all items are taken to count them.
std::int64_t LoopContext::known_length(Renderer& renderer) {
  if (length_) return *length_;
  auto rest = std::make_shared<Values>();
  for (Value item; items_(item);) {
    renderer.step();
    rest->push_back(item);
  }
  length_ = static_cast<std::int64_t>(rest->size()) + index_ + 1 + (after_ ? 1 : 0);
  items_ = [rest, i = std::size_t{0}](Value& item) mutable {
    if (i == rest->size()) return false;
    item = (*rest)[i++];
    return true;
  };
  return *length_;
}

std::optional<Value> LoopContext::attribute(Renderer& renderer, const std::string& name) {
  if (name == "index") return Value(index_ + 1);
  if (name == "index0") return Value(index_);
  if (name == "first") return Value(index_ == 0);
  if (name == "depth") return Value(1);
  if (name == "depth0") return Value(0);
  constexpr std::array<std::string_view, 8> kLive = {"last",     "length",   "revindex", "revindex0",
                                                     "previtem", "nextitem", "cycle",    "changed"};
  if (std::find(kLive.begin(), kLive.end(), name) == kLive.end()) return std::nullopt;
  if (!items_) unsupported("'loop.{}' after the end of its loop", name);
  if (name == "last") return Value(!peek());
  if (name == "length") return Value(known_length(renderer));
  if (name == "revindex") return Value(known_length(renderer) - index_);
  if (name == "revindex0") return Value(known_length(renderer) - index_ - 1);
  if (name == "previtem") {
    return index_ > 0 && before_ ? *before_ : undefined_value("there is no previous item");
  }
  if (name == "nextitem") return peek() ? *after_ : undefined_value("there is no next item");
  return function(name);
}

// The functions keep the loop's numbers, not the loop: it may be kept where it holds itself.
Value LoopContext::function(const std::string& name) {
  if (name == "cycle") {
    return make_builtin("cycle", [index = index_](Renderer&, const Arguments& arguments) {
      if (arguments.positional.empty() || !arguments.keywords.empty())
        runtime_error("no items for cycling given");
      return arguments.positional[static_cast<std::size_t>(index) % arguments.positional.size()];
    });
  }
  return make_builtin(
      "changed", [this, alive = std::weak_ptr<const int>(alive_)](Renderer&, const Arguments& arguments) {
        if (alive.expired()) unsupported("'loop.changed' after the end of its loop");
        if (!arguments.keywords.empty()) runtime_error("changed() got an unexpected keyword argument");
        const Value now = make_tuple(arguments.positional);
        if (changed_ && equal(*changed_, now)) return Value(false);
        changed_ = now;
        return Value(true);
      });
}

Value make_cycler(const Arguments& arguments) {
  if (!arguments.keywords.empty()) runtime_error("cycler() got an unexpected keyword argument");
  const auto cycler = std::make_shared<Cycler>(arguments.positional);
  cycler->own = cycler;
  return Value(ObjectPtr(cycler));
}

Value make_joiner(const Arguments& arguments) {
  ArgumentReader reader("joiner", arguments);
  Value separator = reader.value_or("sep", Value(", "));
  reader.done();
  return Value(ObjectPtr(std::make_shared<Joiner>(std::move(separator))));
}

std::optional<Value> global(const std::string& name) {
  if (name == "range") return make_builtin(name, make_range);
  if (name == "dict") return make_builtin(name, make_dict);
  if (name == "namespace") return make_builtin(name, make_namespace);
  if (name == "raise_exception") return make_builtin(name, raise_exception);
  if (name == "strftime_now") return make_builtin(name, strftime_now);
  if (name == "cycler")
    return make_builtin(name, [](Renderer&, const Arguments& a) { return make_cycler(a); });
  if (name == "joiner")
    return make_builtin(name, [](Renderer&, const Arguments& a) { return make_joiner(a); });
  if (name == "lipsum") {
    return make_builtin(name,
                        [](Renderer&, const Arguments&) -> Value { unsupported("the function 'lipsum'"); });
  }
  return std::nullopt;
}

}  // namespace swiftprune::templates
