#include "swiftprune/checkpoint/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using PickleKind = PickleValue::Kind;

constexpr std::size_t kMaxValues = 8'000'000;
constexpr std::size_t kMaxStack = 4'000'000;
constexpr std::size_t kMaxReferences = 64'000'000;  // from lists, tuples and dicts to their items

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kTensor = "torch._utils._rebuild_tensor";
constexpr std::string_view kTensor2 = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kParameter = "torch._utils._rebuild_parameter";

bool is_storage_type(std::string_view name) {
  constexpr std::array kPrefixes = {std::string_view("torch."), std::string_view("torch.storage.")};
  return name.ends_with("Storage") &&
         std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](std::string_view prefix) {
           return name.starts_with(prefix) && name.find('.', prefix.size()) == std::string_view::npos;
         });
}

bool is_known_global(std::string_view name) {
  return name == kOrderedDict || name == kTensor || name == kTensor2 || name == kParameter ||
         is_storage_type(name);
}

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Pickle run() {
    while (step(read<std::uint8_t>())) continue;
    if (stack_.size() != 1) broken("a value alone at the end");
    result_.root = pop();
    result_.num_bytes = at_;
    return std::move(result_);
  }

 private:
  [[noreturn]] void broken(std::string_view expected) const {
    bad_input("{}: found a broken pickle at byte {}, expected {}", name_, at_, expected);
  }

  std::string_view take(std::uint64_t size) {
    if (size > bytes_.size() - at_) broken("more bytes: it is cut short");
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_,
                                static_cast<std::size_t>(size));
    at_ += static_cast<std::size_t>(size);
    return text;
  }
  template <class T>
  T read() {
    T value{};
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) broken("the end of a line");
    at_ += end + 1;
    return rest.substr(0, end);
  }

  void push(PickleValue value) {
    if (result_.values.size() == kMaxValues || stack_.size() == kMaxStack) broken("fewer values");
    stack_.push_back(static_cast<std::int32_t>(result_.values.size()));
    result_.values.push_back(std::move(value));
  }
  void push(PickleKind kind, std::int64_t integer = 0) { push({.kind = kind, .integer = integer}); }
  void push_text(PickleKind kind, std::string_view text) { push({.kind = kind, .text = std::string(text)}); }

  PickleValue& value(std::int32_t index) { return result_.values[static_cast<std::size_t>(index)]; }
  std::int32_t pop() {
    if (stack_.empty()) broken("a value on the stack");
    const std::int32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  std::int32_t pop(PickleKind kind, std::string_view expected) {
    const std::int32_t top = pop();
    if (value(top).kind != kind) broken(expected);
    return top;
  }
  std::vector<std::int32_t> pop_to_mark() {
    auto mark = std::find_if(stack_.rbegin(), stack_.rend(),
                             [&](std::int32_t i) { return value(i).kind == PickleKind::kMark; });
    if (mark == stack_.rend()) broken("a mark on the stack");
    std::vector<std::int32_t> items(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return items;
  }
  std::vector<std::int32_t> pop_many(std::size_t count) {
    if (stack_.size() < count) broken("values on the stack");
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<std::int32_t> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    return items;
  }
  void count_references(std::size_t count) {
    num_references_ += count;
    if (num_references_ > kMaxReferences) broken("fewer items");
  }
  void push_tuple(std::vector<std::int32_t> items) {
    count_references(items.size());
    push({.kind = PickleKind::kTuple, .items = std::move(items)});
  }
  void extend(PickleKind kind, const std::vector<std::int32_t>& items) {
    if (stack_.empty() || value(stack_.back()).kind != kind) {
      broken(kind == PickleKind::kDict ? "a dict to add to" : "a list to add to");
    }
    if (kind == PickleKind::kDict && items.size() % 2 != 0) broken("keys with values");
    count_references(items.size());
    auto& target = value(stack_.back()).items;
    target.insert(target.end(), items.begin(), items.end());
  }

  void put(std::uint64_t index) {
    if (stack_.empty()) broken("a value to remember");
    if (memo_.size() == kMaxValues) broken("fewer values");
    memo_[index] = stack_.back();
  }
  void get(std::uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) broken("a value that was remembered");
    if (stack_.size() == kMaxStack) broken("fewer values");
    stack_.push_back(found->second);
  }

  void global(std::string_view module, std::string_view name) {
    const std::string full = std::string(module) + "." + std::string(name);
    if (!is_known_global(full)) {
      bad_input(
          "{}: found the Python name {}, expected tensors alone: pickles are read, never run, so nothing "
          "else can "
          "be in them; save the model as safetensors (transformers' save_pretrained)",
          name_, json_quoted(full));
    }
    push_text(PickleKind::kGlobal, full);
  }

  // A call: of the four names that a file of tensors needs.
  void reduce() {
    const std::int32_t arguments = pop(PickleKind::kTuple, "a tuple of arguments");
    const std::string function = value(pop(PickleKind::kGlobal, "a name to call")).text;
    const std::vector<std::int32_t>& items = value(arguments).items;
    if (function == kOrderedDict) {
      if (!items.empty()) broken("OrderedDict without arguments");
      push(PickleKind::kDict);
    } else if (function == kTensor || function == kTensor2) {
      if (items.size() < 4 || value(items[0]).kind != PickleKind::kStorage) broken("a tensor of a storage");
      push({.kind = PickleKind::kTensor, .items = items});
    } else if (function == kParameter) {
      if (items.empty() || value(items[0]).kind != PickleKind::kTensor) broken("a parameter of a tensor");
      stack_.push_back(items[0]);
    } else {
      broken("a function that makes a tensor");
    }
  }

  void persistent() {
    const std::int32_t tuple = pop(PickleKind::kTuple, "a tuple that names a storage");
    const std::vector<std::int32_t>& items = value(tuple).items;
    if (items.size() < 5 || value(items[0]).kind != PickleKind::kString ||
        value(items[0]).text != "storage" || value(items[1]).kind != PickleKind::kGlobal ||
        value(items[2]).kind != PickleKind::kString || value(items[4]).kind != PickleKind::kInteger) {
      broken("('storage', type, key, location, size)");
    }
    push({.kind = PickleKind::kStorage, .items = {items.begin() + 1, items.end()}});
  }

  void long_integer() {
    const std::uint8_t size = read<std::uint8_t>();
    const std::string_view bytes = take(size);
    // torch's magic number has ten bytes; nothing that is read as a number has more than eight.
    if (size > 8) return push_text(PickleKind::kString, bytes);
    std::uint64_t bits = size > 0 && (static_cast<unsigned char>(bytes.back()) & 0x80u) != 0 ? ~0ull : 0ull;
    for (std::size_t i = size; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[i]);
    push(PickleKind::kInteger, static_cast<std::int64_t>(bits));
  }

  void stack_global() {
    const std::int32_t name = pop(PickleKind::kString, "a name"),
                       module = pop(PickleKind::kString, "a module");
    const std::string name_text = value(name).text, module_text = value(module).text;
    global(module_text, name_text);
  }

  // An opcode of Lib/pickle.py; false at the end.
  bool step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        if (const auto protocol = read<std::uint8_t>(); protocol < 2 || protocol > 5)
          broken("protocol 2 to 5");
        break;
      case 0x95:  // FRAME
        read<std::uint64_t>();
        break;
      case '.':  // STOP
        return false;
      case '(':
        push(PickleKind::kMark);
        break;
      case 'N':
        push(PickleKind::kNone);
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        push(PickleKind::kBoolean, opcode == 0x88 ? 1 : 0);
        break;
      case 'J':
        push(PickleKind::kInteger, read<std::int32_t>());
        break;
      case 'K':
        push(PickleKind::kInteger, read<std::uint8_t>());
        break;
      case 'M':
        push(PickleKind::kInteger, read<std::uint16_t>());
        break;
      case 0x8a:  // LONG1
        long_integer();
        break;
      case 'G':  // BINFLOAT; its value is not needed
        take(8);
        push(PickleKind::kNumber);
        break;
      default:
        return step_text(opcode);
    }
    return true;
  }

  bool step_text(std::uint8_t opcode) {
    switch (opcode) {
      case 'X':  // BINUNICODE
        push_text(PickleKind::kString, take(read<std::uint32_t>()));
        break;
      case 0x8c:  // SHORT_BINUNICODE
        push_text(PickleKind::kString, take(read<std::uint8_t>()));
        break;
      case 'c': {  // GLOBAL
        const std::string_view module = line();
        global(module, line());
        break;
      }
      case 0x93:
        stack_global();
        break;
      case 'q':
        put(read<std::uint8_t>());
        break;
      case 'r':
        put(read<std::uint32_t>());
        break;
      case 0x94:  // MEMOIZE
        put(memo_.size());
        break;
      case 'h':
        get(read<std::uint8_t>());
        break;
      case 'j':
        get(read<std::uint32_t>());
        break;
      default:
        return step_structure(opcode);
    }
    return true;
  }

  bool step_structure(std::uint8_t opcode) {
    switch (opcode) {
      case ')':
        push(PickleKind::kTuple);
        break;
      case 't':
        push_tuple(pop_to_mark());
        break;
      case 0x85:  // TUPLE1 to TUPLE3
      case 0x86:
      case 0x87:
        push_tuple(pop_many(opcode - 0x84u));
        break;
      case ']':
        push(PickleKind::kList);
        break;
      case '}':
        push(PickleKind::kDict);
        break;
      case 'a':
        extend(PickleKind::kList, pop_many(1));
        break;
      case 'e':
        extend(PickleKind::kList, pop_to_mark());
        break;
      case 's':
        extend(PickleKind::kDict, pop_many(2));
        break;
      case 'u':
        extend(PickleKind::kDict, pop_to_mark());
        break;
      case 'Q':  // BINPERSID
        persistent();
        break;
      case 'R':
        reduce();
        break;
      case 'b':  // BUILD: a state dict's _metadata, which holds versions of modules
        pop();
        if (stack_.empty() || value(stack_.back()).kind != PickleKind::kDict)
          broken("attributes of an OrderedDict");
        break;
      case '0':
        pop();
        break;
      default:
        bad_input(
            "{}: found the pickle opcode 0x{:02x} at byte {}, which a file of tensors does not need; save "
            "the model "
            "as safetensors (transformers' save_pretrained)",
            name_, opcode, at_ - 1);
    }
    return true;
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::size_t num_references_ = 0;
  Pickle result_;
  std::vector<std::int32_t> stack_;
  std::unordered_map<std::uint64_t, std::int32_t> memo_;
};

}  // namespace

Pickle parse_pickle(std::span<const std::byte> bytes, const std::string& name) {
  return Machine(bytes, name).run();
}

}  // namespace swiftprune
