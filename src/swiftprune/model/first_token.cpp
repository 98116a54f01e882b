#include "swiftprune/model/first_token.h"

#include <filesystem>

#include <nlohmann/json.hpp>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

std::int32_t first_token(const Model& model) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  if (Tokenizer::is_in(folder)) {
    const auto tokenizer = Tokenizer::open(folder);
    if (tokenizer->bos()) return *tokenizer->bos();
    if (tokenizer->eos()) return *tokenizer->eos();
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    const auto it = model.checkpoint().config().find(key);
    if (it == model.checkpoint().config().end() || !it->is_number_integer()) continue;
    const std::int64_t id = it->get<std::int64_t>();
    if (id >= 0 && id < model.config().vocab_size) return static_cast<std::int32_t>(id);
  }
  return 0;
}

}  // namespace swiftprune
