#include "swiftprune/serving/json_acceptor.h"

#include <algorithm>
#include <string>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Kind = JsonNode::Kind;
using Mode = JsonAcceptor::Mode;
using State = JsonAcceptor::State;

// JSON sets no limits here; without them a model can fill its answer with spaces or digits.
constexpr std::uint8_t kMaxSpaces = 64;
// In front of the whole text, where many tokenizers have a space in the token of a bracket.
constexpr std::uint8_t kMaxFirstSpaces = 1;
constexpr std::int32_t kMaxDigits = 32;
// Alternatives that a text can mean at the same time; more are left out, which only narrows the answer.
constexpr std::size_t kMaxStates = 64;

bool is_space(std::uint8_t byte) { return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'; }
bool is_digit(std::uint8_t byte) { return byte >= '0' && byte <= '9'; }

// Places in a number: RFC 8259, section 6.
constexpr std::uint8_t kSign = 0, kZero = 1, kWhole = 2, kPoint = 3, kFraction = 4, kExponent = 5,
                       kExponentSign = 6, kPower = 7, kNoNumber = 255;

bool number_may_end(std::uint8_t place) {
  return place == kZero || place == kWhole || place == kFraction || place == kPower;
}

std::uint8_t number_after(std::uint8_t place, std::uint8_t byte, bool integer) {
  const bool fraction = !integer && (place == kZero || place == kWhole);
  if (byte == '.' && fraction) return kPoint;
  if ((byte == 'e' || byte == 'E') && (fraction || (!integer && place == kFraction))) return kExponent;
  if ((byte == '+' || byte == '-') && place == kExponent) return kExponentSign;
  if (!is_digit(byte)) return kNoNumber;
  switch (place) {
    case kSign:
      return byte == '0' ? kZero : kWhole;
    case kWhole:
      return kWhole;
    case kPoint:
    case kFraction:
      return kFraction;
    case kExponent:
    case kExponentSign:
    case kPower:
      return kPower;
    default:
      return kNoNumber;
  }
}

// One byte of a character inside a string (Unicode 15, table 3-7); false when it may not come.
bool step_utf8(State& state, std::uint8_t byte) {
  if (state.utf8_left > 0) {
    if (byte < state.utf8_lowest || byte > state.utf8_highest) return false;
    --state.utf8_left;
    state.utf8_lowest = 0x80;
    state.utf8_highest = 0xBF;
    return true;
  }
  if (byte < 0x20) return false;
  if (byte < 0x80) return true;
  if (byte < 0xC2 || byte > 0xF4) return false;
  state.utf8_left = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  state.utf8_lowest = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  state.utf8_highest = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  return true;
}

// Cuts [first, last) to the texts whose byte at `length` is this one, and counts it.
void narrow(const JsonNode& node, State& state, std::uint8_t byte) {
  const auto at = static_cast<std::size_t>(state.length);
  const auto fits = [&](std::int32_t i) {
    const std::string& text = node.texts[static_cast<std::size_t>(i)];
    return text.size() > at && static_cast<std::uint8_t>(text[at]) == byte;
  };
  while (state.first < state.last && !fits(state.first)) ++state.first;
  while (state.first < state.last && !fits(state.last - 1)) --state.last;
  ++state.length;
}

// The text that ends here, if one does: in a sorted list it is the first.
bool ends_text(const JsonNode& node, const State& state) {
  return state.first < state.last &&
         node.texts[static_cast<std::size_t>(state.first)].size() == static_cast<std::size_t>(state.length);
}

}  // namespace

JsonAcceptor::JsonAcceptor(const JsonSchema& schema) : schema_(schema) {}

JsonAcceptor::States JsonAcceptor::start() const {
  State first;
  first.node = schema_.root;
  return {first};
}

std::int32_t JsonAcceptor::add_frame(const Frame& made) {
  frames_.push_back(made);
  return static_cast<std::int32_t>(frames_.size() - 1);
}

void JsonAcceptor::put(const State& state, States& next) {
  if (next.size() < kMaxStates && std::find(next.begin(), next.end(), state) == next.end())
    next.push_back(state);
}

void JsonAcceptor::step(std::span<const State> states, std::uint8_t byte, States& next) {
  next.clear();
  for (const State& state : states) step_one(state, byte, next);
}

void JsonAcceptor::step_one(State state, std::uint8_t byte, States& next) {
  switch (state.mode) {
    case Mode::kString:
      return step_string(state, byte, next);
    case Mode::kEscape:
    case Mode::kHex:
      return step_escape(state, byte, next);
    case Mode::kNumber:
      return step_number(state, byte, next);
    case Mode::kText:
      return step_text(state, byte, next);
    case Mode::kName:
      return step_name(state, byte, next);
    case Mode::kDone:
      return;
    default:
      break;
  }
  if (is_space(byte)) {
    const bool before_all = state.mode == Mode::kValue && state.frame < 0;
    if (++state.spaces <= (before_all ? kMaxFirstSpaces : kMaxSpaces)) put(state, next);
    return;
  }
  state.spaces = 0;
  switch (state.mode) {
    case Mode::kFirstItem:
      if (byte == ']') return close(state, byte, next);
      if (schema_.at(frame(state.frame).node).max_items > 0) start_value(state, byte, next);
      return;
    case Mode::kFirstKey:
      if (byte == '}') return close(state, byte, next);
      return step_key(state, byte, next);
    case Mode::kKey:
      return step_key(state, byte, next);
    case Mode::kColon:
      state.mode = Mode::kValue;
      if (byte == ':') put(state, next);
      return;
    case Mode::kAfterValue:
      return after_value(state, byte, next);
    default:
      return start_value(state, byte, next);
  }
}

void JsonAcceptor::start_value(State state, std::uint8_t byte, States& next) {
  const JsonNode& node = schema_.at(state.node);
  state.length = 1;
  switch (node.kind) {
    case Kind::kAnyOf:
      for (const std::int32_t child : node.children) {
        state.node = child;
        start_value(state, byte, next);
      }
      return;
    case Kind::kObject:
      if (byte == '{') open(state, Mode::kFirstKey, next);
      return;
    case Kind::kArray:
      if (byte == '[') open(state, Mode::kFirstItem, next);
      return;
    case Kind::kString:
      state.mode = Mode::kString;
      state.is_key = false;
      state.length = 0;
      if (byte == '"') put(state, next);
      return;
    case Kind::kNumber:
    case Kind::kInteger:
      state.mode = Mode::kNumber;
      state.number = byte == '-' ? kSign : number_after(kSign, byte, true);
      if (state.number != kNoNumber) put(state, next);
      return;
    case Kind::kTexts:
      state.mode = Mode::kText;
      state.first = 0;
      state.last = static_cast<std::int32_t>(node.texts.size());
      state.length = 0;
      return step_text(state, byte, next);
  }
}

void JsonAcceptor::open(State state, Mode mode, States& next) {
  const std::int32_t depth = state.frame < 0 ? 1 : frame(state.frame).depth + 1;
  if (static_cast<std::size_t>(depth) > kMaxJsonDepth) return;
  state.frame = add_frame({.parent = state.frame, .node = state.node, .depth = depth});
  if (mode == Mode::kFirstItem) state.node = schema_.at(state.node).children.front();
  state.mode = mode;
  state.length = 0;
  put(state, next);
}

void JsonAcceptor::finish_value(State state, States& next) {
  State after;
  after.frame = state.frame;
  after.mode = state.frame < 0 ? Mode::kDone : Mode::kAfterValue;
  if (state.frame >= 0) {
    Frame counted = frame(state.frame);
    if (schema_.at(counted.node).kind == Kind::kArray) {
      ++counted.items;
      after.frame = add_frame(counted);
    }
  }
  put(after, next);
}

// The value ended before this byte, which belongs to what is around it.
void JsonAcceptor::finish_and_step(State state, std::uint8_t byte, States& next) {
  if (state.frame < 0) return;
  States behind;
  finish_value(state, behind);
  for (const State& after : behind) step_one(after, byte, next);
}

void JsonAcceptor::close(State state, std::uint8_t byte, States& next) {
  const Frame container = frame(state.frame);
  const JsonNode& node = schema_.at(container.node);
  const bool fits = node.kind == Kind::kArray ? byte == ']' && container.items >= node.min_items
                                              : byte == '}' && (node.required & ~container.seen) == 0;
  if (!fits) return;
  state.frame = container.parent;
  finish_value(state, next);
}

void JsonAcceptor::after_value(State state, std::uint8_t byte, States& next) {
  if (byte != ',') return close(state, byte, next);
  const Frame& container = frame(state.frame);
  const JsonNode& node = schema_.at(container.node);
  if (node.kind == Kind::kArray) {
    state.mode = Mode::kValue;
    state.node = node.children.front();
    if (container.items < node.max_items) put(state, next);
  } else {
    state.mode = Mode::kKey;
    if (has_more_properties(container)) put(state, next);
  }
}

bool JsonAcceptor::has_more_properties(const Frame& object) const {
  const JsonNode& node = schema_.at(object.node);
  const std::size_t n = node.texts.size();
  const std::uint64_t all = n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  return node.additional >= 0 || (all & ~object.seen) != 0;
}

void JsonAcceptor::step_string(State state, std::uint8_t byte, States& next) {
  if (state.utf8_left == 0 && byte == '"') {
    if (!state.is_key) return finish_value(state, next);
    state.mode = Mode::kColon;
    state.is_key = false;
    return put(state, next);
  }
  if (state.utf8_left == 0 && byte == '\\') {
    state.mode = Mode::kEscape;
    return put(state, next);
  }
  if (step_utf8(state, byte)) put(state, next);
}

void JsonAcceptor::step_escape(State state, std::uint8_t byte, States& next) {
  constexpr std::string_view kEscapes = "\"\\/bfnrt";
  if (state.mode == Mode::kEscape) {
    state.mode = byte == 'u' ? Mode::kHex : Mode::kString;
    state.length = 0;
    state.number = 0;
    if (byte == 'u' || kEscapes.find(static_cast<char>(byte)) != std::string_view::npos) put(state, next);
    return;
  }
  const bool letter = (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
  if (!is_digit(byte) && !letter) return;
  // No surrogates: half a pair is no character.
  if (state.length == 1 && state.number == 1 && (letter || byte >= '8')) return;
  state.number = state.length == 0 && (byte == 'd' || byte == 'D') ? 1 : 0;
  if (++state.length == 4) {
    state.mode = Mode::kString;
    state.length = 0;
    state.number = 0;
  }
  put(state, next);
}

void JsonAcceptor::step_number(State state, std::uint8_t byte, States& next) {
  const bool integer = schema_.at(state.node).kind == Kind::kInteger;
  const std::uint8_t place = number_after(state.number, byte, integer);
  if (place == kNoNumber) {
    if (number_may_end(state.number)) finish_and_step(state, byte, next);
    return;
  }
  state.number = place;
  if (++state.length <= kMaxDigits) put(state, next);
}

void JsonAcceptor::step_text(State state, std::uint8_t byte, States& next) {
  const JsonNode& node = schema_.at(state.node);
  // A number among the texts may end here.
  if (state.length > 0 && ends_text(node, state)) finish_and_step(state, byte, next);
  narrow(node, state, byte);
  if (state.first == state.last) return;
  const bool one = state.last - state.first == 1;
  // Only numbers need a look at what follows.
  if (one && ends_text(node, state) && !is_digit(byte)) return finish_value(state, next);
  put(state, next);
}

void JsonAcceptor::step_key(State state, std::uint8_t byte, States& next) {
  const Frame& object = frame(state.frame);
  if (byte != '"' || !has_more_properties(object)) return;
  const JsonNode& node = schema_.at(object.node);
  state.free = node.additional >= 0;
  state.length = 0;
  state.first = 0;
  state.last = static_cast<std::int32_t>(node.texts.size());
  state.mode = Mode::kName;
  if (node.texts.empty()) {  // any key, escapes too
    state.mode = Mode::kString;
    state.is_key = true;
    state.free = false;
    state.node = node.additional;
    state.last = 0;
  }
  put(state, next);
}

// Beside names that the schema knows, a key is written without escapes, so that it cannot be one of them in
// another spelling.
void JsonAcceptor::step_name(State state, std::uint8_t byte, States& next) {
  const Frame& object = frame(state.frame);
  const JsonNode& node = schema_.at(object.node);
  const bool inside = state.first < state.last && [&] {
    State tried = state;
    narrow(node, tried, byte);
    return tried.first < tried.last;
  }();
  if (byte == '"' && state.utf8_left == 0 && !inside) return end_name(state, next);
  if (state.free && (byte == '\\' || !step_utf8(state, byte))) state.free = false;
  narrow(node, state, byte);
  bool unseen = false;
  for (std::int32_t i = state.first; i < state.last; ++i) unseen |= ((object.seen >> i) & 1) == 0;
  if (unseen || state.free) put(state, next);
}

void JsonAcceptor::end_name(State state, States& next) {
  Frame object = frame(state.frame);
  const JsonNode& node = schema_.at(object.node);
  State after;
  after.mode = Mode::kColon;
  after.frame = state.frame;
  if (ends_text(node, state)) {
    const std::uint64_t bit = std::uint64_t{1} << state.first;
    if ((object.seen & bit) != 0) return;
    object.seen |= bit;
    after.node = node.children[static_cast<std::size_t>(state.first)];
    after.frame = add_frame(object);
    return put(after, next);
  }
  after.node = node.additional;
  if (state.free) put(after, next);
}

bool JsonAcceptor::may_end(const JsonSchema& schema, std::span<const State> states) {
  return std::any_of(states.begin(), states.end(), [&](const State& state) {
    if (state.mode == Mode::kDone) return true;
    if (state.frame >= 0) return false;
    if (state.mode == Mode::kNumber) return number_may_end(state.number);
    return state.mode == Mode::kText && ends_text(schema.at(state.node), state);
  });
}

bool JsonAcceptor::complete(std::span<const State> states) {
  return !states.empty() && std::all_of(states.begin(), states.end(),
                                        [](const State& state) { return state.mode == Mode::kDone; });
}

}  // namespace swiftprune
