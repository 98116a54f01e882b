#include "swiftprune/text/pipeline_tokenizer.h"

#include <algorithm>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {

class PipelineTokenizer::Lease {
 public:
  explicit Lease(const PipelineTokenizer& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.mutex_);
    if (owner_.free_.empty()) {
      scratch_ = std::make_unique<Scratch>();
    } else {
      scratch_ = std::move(owner_.free_.back());
      owner_.free_.pop_back();
    }
  }
  ~Lease() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.free_.push_back(std::move(scratch_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Scratch* operator->() { return scratch_.get(); }

 private:
  const PipelineTokenizer& owner_;
  std::unique_ptr<Scratch> scratch_;
};

void check_text(std::string_view text) {
  // Symbols and pieces are counted in 32 bits.
  constexpr std::size_t kMaxBytes = std::numeric_limits<std::int32_t>::max() / 4;
  if (text.size() > kMaxBytes) {
    bad_input("text: found {} bytes, expected at most {}; cut it into documents", text.size(), kMaxBytes);
  }
  if (const auto position = invalid_utf8_position(text)) {
    bad_input("text: found the byte 0x{:02x} at position {}, expected UTF-8",
              static_cast<unsigned char>(text[*position]), *position);
  }
}

// The file's "truncation" and "padding" are left aside: they serve batches, and a long text is wanted whole.
std::vector<std::int32_t> PipelineTokenizer::encode(std::string_view text, bool add_special) const {
  check_text(text);
  Lease scratch(*this);
  SplitText split = parts_.added.split(text, parts_.normalizer.get(), scratch->match);
  if (parts_.pre_tokenizer) parts_.pre_tokenizer->apply(split, scratch->match);
  std::vector<std::int32_t> ids;
  ids.reserve(split.text.size() / 4 + 8);
  if (add_special) ids = parts_.frame.before;
  for (const Piece& piece : split.pieces) {
    if (!piece.is_text())
      ids.push_back(piece.token);
    else
      parts_.model->encode(split.view(piece), scratch->model, ids);
  }
  if (add_special) ids.insert(ids.end(), parts_.frame.after.begin(), parts_.frame.after.end());
  return ids;
}

std::string PipelineTokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const std::string* spelling = parts_.added.decoder_spelling(id);
    if (spelling == nullptr && parts_.model->vocabulary().contains(id)) {
      spelling = &parts_.model->vocabulary().token(id);
    }
    if (spelling == nullptr || (skip_special && parts_.added.is_special(*spelling))) continue;
    tokens.push_back(*spelling);
  }
  std::string text;
  if (parts_.decoder) {
    Lease scratch(*this);
    parts_.decoder->apply(tokens, scratch->match);
    for (const std::string& token : tokens) text += token;
  } else {
    for (const std::string& token : tokens) {
      if (&token != tokens.data()) text += ' ';
      text += token;
    }
  }
  return text;
}

std::int64_t PipelineTokenizer::vocab_size() const {
  return std::max(parts_.model->vocabulary().id_end(), parts_.added.id_end());
}

std::string PipelineTokenizer::token(std::int32_t id) const {
  const AddedToken* added = parts_.added.token(id);
  return added != nullptr ? added->content : parts_.model->vocabulary().token(id);
}

std::optional<std::int32_t> PipelineTokenizer::id_of(std::string_view token) const {
  const auto id = parts_.added.find(token);
  return id ? id : parts_.model->vocabulary().find(token);
}

}  // namespace swiftprune::text
