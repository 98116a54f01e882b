#include "swiftprune/text/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <exception>

#include "swiftprune/core/error.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/pipeline_tokenizer.h"
#include "swiftprune/text/scratch_pool.h"
#include "swiftprune/text/sentencepiece_model.h"
#include "swiftprune/text/tokenizer_config.h"
#include "swiftprune/text/word_cache.h"

namespace swiftprune::text {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, how pieces spell a space

using Processor = sentencepiece::SentencePieceProcessor;

void load(Processor& processor, std::string_view model, const std::string& file) {
  std::string reason;
  try {
    const auto status = processor.LoadFromSerializedProto(model);
    if (!status.ok()) reason = status.ToString();
  } catch (const std::exception& error) {  // of its trie: an empty piece, one that is there twice
    reason = error.what();
  }
  if (!reason.empty()) bad_input("{}: not a SentencePiece model: {}", file, reason);
}

bool starts_with_space(std::string_view text) {
  return text.starts_with(' ') || text.starts_with(kSpaceMark);
}

// Whether some piece holds a space mark after another character, so that words are not encoded on their own.
bool has_inner_space(const std::vector<std::string>& pieces) {
  return std::any_of(pieces.begin(), pieces.end(), [](std::string_view piece) {
    while (piece.starts_with(kSpaceMark)) piece.remove_prefix(kSpaceMark.size());
    return piece.find(kSpaceMark) != std::string_view::npos;
  });
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::filesystem::path& file) {
    const std::string model = file_bytes(file);
    Sha256 hash;
    hash.update(model);
    const SentencePieceSpec spec = read_sentencepiece_spec(model, file.string());
    load(first_, model, file.string());
    load(inner_, without_dummy_prefix(model), file.string());
    const TokenizerConfig config = read_tokenizer_config(file.parent_path(), hash);
    fingerprint_ = "sha256:" + hash.hex_digest();

    std::vector<std::string> pieces;
    for (int id = 0; id < first_.GetPieceSize(); ++id) pieces.push_back(first_.IdToPiece(id));
    words_apart_ = spec.model_type == SentencePieceSpec::ModelType::kBpe &&
                   spec.precompiled_charsmap.empty() && !spec.treat_whitespace_as_suffix &&
                   !spec.remove_extra_whitespaces && spec.escape_whitespaces && !has_inner_space(pieces) &&
                   !first_.IsUnknown(first_.PieceToId(kSpaceMark));
    vocabulary_ = Vocabulary(std::move(pieces));
    legacy_ = config.legacy.value_or(false);
    add_prefix_space_ = config.add_prefix_space.value_or(true);
    add_tokens(config);
  }

  std::vector<std::int32_t> encode(std::string_view text, bool add_special) const override {
    check_text(text);
    auto scratch = pool_.lease();
    std::vector<std::int32_t> ids;
    if (add_special && add_bos_ && bos_) ids.push_back(*bos_);
    const SplitText split = added_.split(text, nullptr, scratch->match);
    for (const Piece& piece : split.pieces) {
      if (!piece.is_text())
        ids.push_back(piece.token);
      else
        encode_part(split.view(piece), add_prefix_space_ && (piece.at_text_start || legacy_), scratch->words,
                    ids);
    }
    if (add_special && add_eos_ && eos_) ids.push_back(*eos_);
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override {
    std::string text;
    std::vector<int> run;  // of pieces, which the library decodes together
    bool at_start = true;
    const auto end_run = [&] {
      if (run.empty()) return;
      std::string part;
      const auto status = (add_prefix_space_ && (at_start || legacy_) ? first_ : inner_).Decode(run, &part);
      if (!status.ok()) fail(ErrorKind::kFailure, "SentencePiece cannot decode: {}", status.ToString());
      text += part;
      run.clear();
    };
    for (const std::int32_t id : ids) {
      const AddedToken* added = added_.token(id);
      if (added == nullptr) {
        if (id >= 0 && id < first_.GetPieceSize()) run.push_back(id);
        continue;
      }
      if (added->special && skip_special) continue;
      end_run();
      at_start = false;
      text += added->content;
    }
    end_run();
    return text;
  }

  std::int64_t vocab_size() const override { return std::max(vocabulary_.id_end(), added_.id_end()); }
  std::string token(std::int32_t id) const override {
    const AddedToken* added = added_.token(id);
    return added != nullptr ? added->content : vocabulary_.token(id);
  }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    const auto id = added_.find(token);
    return id ? id : vocabulary_.find(token);
  }
  std::optional<std::int32_t> bos() const override { return bos_; }
  std::optional<std::int32_t> eos() const override { return eos_; }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  struct Scratch {
    MatchScratch match;
    WordCache words;
  };

  void add_tokens(const TokenizerConfig& config) {
    std::vector<AddedToken> tokens;
    for (const auto& [id, token] : config.added_tokens) tokens.push_back(token);
    added_ = AddedTokens(tokens, vocabulary_, nullptr);
    const auto find = [this](std::string_view token) { return id_of(token); };
    const auto piece_id = [](int id) { return id >= 0 ? std::optional<std::int32_t>(id) : std::nullopt; };
    bos_ = special_id(config.bos_token, config.bos_id, find, vocab_size());
    eos_ = special_id(config.eos_token, config.eos_id, find, vocab_size());
    if (!bos_) bos_ = piece_id(first_.bos_id());
    if (!eos_) eos_ = piece_id(first_.eos_id());
    add_bos_ = config.add_bos_token.value_or(true);
    add_eos_ = config.add_eos_token.value_or(false);
  }

  static void append_encoded(const Processor& processor, std::string_view text,
                             std::vector<std::int32_t>& ids) {
    std::vector<int> part;
    const auto status = processor.Encode(text, &part);
    if (!status.ok()) fail(ErrorKind::kFailure, "SentencePiece cannot encode: {}", status.ToString());
    ids.insert(ids.end(), part.begin(), part.end());
  }

  // dummy_prefix: as the model says; false: none.
  void encode_part(std::string_view text, bool dummy_prefix, WordCache& words,
                   std::vector<std::int32_t>& ids) const {
    if (!words_apart_) return append_encoded(dummy_prefix ? first_ : inner_, text, ids);
    bool first = dummy_prefix;
    while (!text.empty()) {
      const std::string_view word = text.substr(0, word_bytes(text));
      text.remove_prefix(word.size());
      if (first || word.size() > WordCache::kMaxWordBytes) {
        append_encoded(first ? first_ : inner_, word, ids);
      } else if (!words.append_ids(word, ids)) {
        const std::size_t before = ids.size();
        append_encoded(inner_, word, ids);
        words.insert(word, std::span(ids).subspan(before));
      }
      first = false;
    }
  }

  // Spaces and what follows up to the next space: no merge crosses its ends when words_apart_.
  static std::size_t word_bytes(std::string_view text) {
    std::size_t end = 0;
    while (starts_with_space(text.substr(end))) end += text[end] == ' ' ? 1 : kSpaceMark.size();
    while (end < text.size() && !starts_with_space(text.substr(end))) ++end;
    return end;
  }

  Processor first_;  // as the file says
  Processor inner_;  // the same without the dummy prefix
  Vocabulary vocabulary_;
  AddedTokens added_;
  bool words_apart_ = false;
  bool legacy_ = false;
  bool add_prefix_space_ = true;
  bool add_bos_ = true;
  bool add_eos_ = false;
  std::optional<std::int32_t> bos_, eos_;
  std::string fingerprint_;
  mutable ScratchPool<Scratch> pool_;
};

}  // namespace

std::unique_ptr<Tokenizer> open_sentencepiece(const std::filesystem::path& file) {
  return std::make_unique<SentencePieceTokenizer>(file);
}

}  // namespace swiftprune::text
