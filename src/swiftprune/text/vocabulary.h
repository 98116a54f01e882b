// Token spellings and ids of a model, both ways.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "swiftprune/core/json.h"

namespace swiftprune::text {

class Vocabulary {
 public:
  // Ids above this are taken for damage.
  static constexpr std::int64_t kMaxId = (1 << 24) - 1;

  Vocabulary() = default;
  // field: {"spelling": id, ...}. Ids may have gaps, but no two spellings share one.
  explicit Vocabulary(const JsonField& field);
  // Spellings in the order of their ids. A spelling that comes twice has the later id.
  explicit Vocabulary(std::vector<std::string> tokens);
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  std::optional<std::int32_t> find(std::string_view token) const {
    const auto entry = ids_.find(token);
    return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
  }
  // "" for a gap or an id past the end.
  const std::string& token(std::int32_t id) const;
  bool contains(std::int32_t id) const;
  std::int64_t id_end() const { return static_cast<std::int64_t>(tokens_.size()); }  // highest id + 1
  std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }       // number of spellings
  const std::vector<std::string>& tokens() const { return tokens_; }

  // Ids of the byte tokens "<0x00>".."<0xFF>"; -1 where the vocabulary lacks one.
  std::vector<std::int32_t> byte_tokens() const;

 private:
  std::vector<std::string> tokens_;                         // by id; "" also fills the gaps
  std::unordered_map<std::string_view, std::int32_t> ids_;  // views into tokens_
};

}  // namespace swiftprune::text
