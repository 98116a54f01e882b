#include "swiftprune/text/vocabulary.h"

#include <algorithm>

#include "swiftprune/core/error.h"

namespace swiftprune::text {

Vocabulary::Vocabulary(const JsonField& field) {
  if (!field.json().is_object()) field.unexpected("an object of token spellings and ids");
  const auto& entries = field.json().get_ref<const nlohmann::json::object_t&>();
  const auto entry_field = [&](const auto& entry) {
    return JsonField(entry.second, field.file(), fmt::format("model.vocab[\"{}\"]", entry.first));
  };
  std::int64_t end = 0;
  for (const auto& entry : entries) {
    if (!entry.second.is_number_unsigned() || entry.second.template get<std::uint64_t>() > kMaxId) {
      entry_field(entry).unexpected(fmt::format("an id from 0 to {}", kMaxId));
    }
    end = std::max(end, entry.second.template get<std::int64_t>() + 1);
  }
  tokens_.resize(static_cast<std::size_t>(end));
  ids_.reserve(entries.size());
  std::vector<bool> used(static_cast<std::size_t>(end));
  for (const auto& entry : entries) {
    const auto id = entry.second.template get<std::size_t>();
    if (used[id]) {
      entry_field(entry).unexpected(fmt::format("an id of its own; \"{}\" has the same id", tokens_[id]));
    }
    used[id] = true;
    tokens_[id] = entry.first;
    ids_.emplace(tokens_[id], static_cast<std::int32_t>(id));
  }
}

Vocabulary::Vocabulary(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {
  ids_.reserve(tokens_.size());
  for (std::size_t id = 0; id < tokens_.size(); ++id) {
    ids_.insert_or_assign(tokens_[id], static_cast<std::int32_t>(id));
  }
}

bool Vocabulary::contains(std::int32_t id) const {
  if (id < 0 || id >= id_end()) return false;
  return !tokens_[static_cast<std::size_t>(id)].empty() || find("") == id;
}

const std::string& Vocabulary::token(std::int32_t id) const {
  static const std::string kNone;
  return id >= 0 && id < id_end() ? tokens_[static_cast<std::size_t>(id)] : kNone;
}

std::vector<std::int32_t> Vocabulary::byte_tokens() const {
  std::vector<std::int32_t> ids;
  for (int byte = 0; byte < 256; ++byte) ids.push_back(find(fmt::format("<0x{:02X}>", byte)).value_or(-1));
  return ids;
}

}  // namespace swiftprune::text
