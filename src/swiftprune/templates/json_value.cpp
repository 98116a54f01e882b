#include "swiftprune/templates/json_value.h"

#include <nlohmann/json.hpp>

namespace swiftprune::templates {
namespace {

// Builds the value from the parser's events. Extent::add limits the nesting.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(std::string_view name) : name_(name) {}
  const Value& result() const { return result_; }

  bool null() override { return add(Value()); }
  bool boolean(bool x) override { return add(Value(x)); }
  bool number_integer(std::int64_t x) override { return add(Value(x)); }
  bool number_unsigned(std::uint64_t x) override {
    if (x > static_cast<std::uint64_t>(INT64_MAX)) too_large();
    return add(Value(static_cast<std::int64_t>(x)));
  }
  bool number_float(double x, const std::string& text) override {
    // The library reads larger integers as floats; Python does not.
    if (text.find_first_of(".eE") == std::string::npos) too_large();
    return add(Value(x));
  }
  bool string(std::string& text) override { return add(Value(std::move(text))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(std::string& text) override {
    open_.back().key = text;
    return true;
  }
  bool end_object() override {
    Dict dict = open_.back().members.build();
    open_.pop_back();
    return add(dict);
  }
  bool end_array() override {
    Value list = make_list(std::move(open_.back().items));
    open_.pop_back();
    return add(list);
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    runtime_error("{}: not valid JSON: {}", name_, error.what());
  }

 private:
  struct Open {
    bool object;
    std::string key;
    Values items;
    DictBuilder members;
  };

  [[noreturn]] void too_large() const { unsupported("{}: an integer beyond 64 bits", name_); }

  bool open(bool object) {
    if (open_.size() >= static_cast<std::size_t>(kMaxValueDepth))
      limit_error("{}: found JSON nested deeper than {} levels", name_, kMaxValueDepth);
    open_.push_back({object, {}, {}, {}});
    return true;
  }
  bool add(const Value& value) {
    if (open_.empty()) {
      result_ = value;
    } else if (open_.back().object) {
      open_.back().members.set(open_.back().key, value);
    } else {
      open_.back().items.push_back(value);
    }
    return true;
  }

  std::string_view name_;
  Value result_;
  std::vector<Open> open_;
};

}  // namespace

Value parse_json_value(std::string_view text, std::string_view name) {
  Builder builder(name);
  nlohmann::json::sax_parse(text, &builder);
  return builder.result();
}

}  // namespace swiftprune::templates
