// Follows a JSON text of a schema byte by byte: which bytes may come next, and whether the text may end. A
// text can mean several alternatives for a while (anyOf), so a position is a small set of states. States are
// plain numbers; the containers around them form a tree of frames, so that trying a byte copies next to
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/serving/json_schema.h"

namespace swiftprune {

class JsonAcceptor {
 public:
  // Keeps a reference to the schema.
  explicit JsonAcceptor(const JsonSchema& schema);

  struct State;
  using States = std::vector<State>;

  States start() const;
  // The states behind one more byte; none when it may not come. `next` is emptied first.
  void step(std::span<const State> states, std::uint8_t byte, States& next);
  static bool may_end(const JsonSchema& schema, std::span<const State> states);
  bool may_end(std::span<const State> states) const { return may_end(schema_, states); }
  // Nothing may follow.
  static bool complete(std::span<const State> states);

  // Frames made by trying bytes are given back: keep only those that were there.
  std::size_t num_frames() const { return frames_.size(); }
  void forget_frames(std::size_t keep) { frames_.resize(keep); }

  enum class Mode : std::uint8_t {
    kValue,       // white space, or the first byte of a value
    kFirstItem,   // the same, or the array's end
    kString,      // in a string
    kEscape,      // behind its backslash
    kHex,         // in \uXXXX
    kNumber,      // in a number
    kText,        // in one of the node's texts
    kFirstKey,    // white space, a key's quote, or the object's end
    kKey,         // white space or a key's quote
    kName,        // in a key that may be a property's name
    kColon,       // white space or a colon
    kAfterValue,  // white space, a comma, or the container's end
    kDone,
  };

  struct State {
    Mode mode = Mode::kValue;
    bool is_key = false;           // kString, kEscape, kHex: of a key
    bool free = false;             // kName: it may be a name that the schema does not know
    std::uint8_t utf8_left = 0;    // bytes that the character still needs
    std::uint8_t utf8_lowest = 0;  // bounds of the next of them
    std::uint8_t utf8_highest = 0;
    std::uint8_t number = 0;           // place in a number
    std::uint8_t spaces = 0;           // in a row
    std::int32_t node = 0;             // of the value
    std::int32_t frame = -1;           // the innermost container; -1: none
    std::int32_t first = 0, last = 0;  // texts that still fit
    std::int32_t length = 0;           // bytes of the text, name, number or \u
    bool operator==(const State&) const = default;
  };

 private:
  struct Frame {
    std::int32_t parent = -1;
    std::int32_t node = 0;
    std::int32_t depth = 0;
    std::int64_t items = 0;
    std::uint64_t seen = 0;  // properties
  };

  const Frame& frame(std::int32_t index) const { return frames_[static_cast<std::size_t>(index)]; }
  std::int32_t add_frame(const Frame& made);
  static void put(const State& state, States& next);
  void step_one(State state, std::uint8_t byte, States& next);
  void start_value(State state, std::uint8_t byte, States& next);
  void open(State state, Mode mode, States& next);
  void finish_value(State state, States& next);
  void finish_and_step(State state, std::uint8_t byte, States& next);
  void close(State state, std::uint8_t byte, States& next);
  void step_string(State state, std::uint8_t byte, States& next);
  void step_escape(State state, std::uint8_t byte, States& next);
  void step_number(State state, std::uint8_t byte, States& next);
  void step_text(State state, std::uint8_t byte, States& next);
  void step_key(State state, std::uint8_t byte, States& next);
  void step_name(State state, std::uint8_t byte, States& next);
  void end_name(State state, States& next);
  void after_value(State state, std::uint8_t byte, States& next);
  bool has_more_properties(const Frame& object) const;

  const JsonSchema& schema_;
  std::vector<Frame> frames_;
};

}  // namespace swiftprune
