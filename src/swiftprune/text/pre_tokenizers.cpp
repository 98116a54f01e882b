#include "swiftprune/text/pre_tokenizers.h"

#include "swiftprune/core/error.h"
#include "swiftprune/text/byte_level.h"
#include "swiftprune/text/pattern.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

using PreTokenizerPtr = std::unique_ptr<PreTokenizer>;

// openai/gpt-2, encoder.py.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Rust's \w, in which joiners count.
constexpr std::string_view kWordsPattern =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}\s]+)";

SplitBehavior behavior_of(const JsonField& field) {
  constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  for (const auto& [name, behavior] : kNames) {
    if (field.string() == name) return behavior;
  }
  field.unexpected("one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(SplitText& split, MatchScratch& scratch) const override {
    split_pieces(split, behavior_, [&](std::string_view text, std::vector<Span>& spans) {
      pattern_.find_all(text, scratch, spans);
      if (!invert_) return;
      for (Span& span : spans) span.is_match = !span.is_match;
    });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space) {
    if (use_regex)
      words_ = std::make_unique<Split>(Pattern(kGpt2Pattern, "ByteLevel"), SplitBehavior::kIsolated, false);
  }

  void apply(SplitText& split, MatchScratch& scratch) const override {
    if (add_prefix_space_) {
      rewrite_pieces(split, [](const Piece&, std::string_view text, std::string& out) {
        if (!text.starts_with(' ')) out += ' ';
        out.append(text);
      });
    }
    if (words_) words_->apply(split, scratch);
    rewrite_pieces(
        split, [](const Piece&, std::string_view text, std::string& out) { append_byte_level(out, text); });
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<Split> words_;
};

// Splits where a property of single code points says so.
template <bool (*property)(char32_t)>
class CodePointSplit : public PreTokenizer {
 public:
  explicit CodePointSplit(SplitBehavior behavior) : behavior_(behavior) {}
  void apply(SplitText& split, MatchScratch&) const override {
    split_pieces(split, behavior_, [](std::string_view text, std::vector<Span>& spans) {
      find_code_points(text, property, spans);
    });
  }

 private:
  SplitBehavior behavior_;
};
using Digits = CodePointSplit<is_numeric>;
using Punctuation = CodePointSplit<is_punctuation>;
using WhitespaceSplit = CodePointSplit<is_whitespace>;

class CharDelimiterSplit : public PreTokenizer {
 public:
  explicit CharDelimiterSplit(char32_t delimiter) : delimiter_(delimiter) {}
  void apply(SplitText& split, MatchScratch&) const override {
    split_pieces(split, SplitBehavior::kRemoved, [this](std::string_view text, std::vector<Span>& spans) {
      find_code_points(
          text, [this](char32_t c) { return c == delimiter_; }, spans);
    });
  }

 private:
  char32_t delimiter_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kFirst, kNever, kAlways };

  explicit Metaspace(const JsonField& field) : split_(field.boolean_or("split", true)) {
    replacement_char_ = one_code_point(field.at("replacement"));
    append_utf8(replacement_, replacement_char_);
    const auto scheme = field.find("prepend_scheme");
    if (!scheme || scheme->string() == "always")
      prepend_ = Prepend::kAlways;
    else if (scheme->string() == "first")
      prepend_ = Prepend::kFirst;
    else if (scheme->string() == "never")
      prepend_ = Prepend::kNever;
    else
      scheme->unexpected("one of first, never, always");
    if (!field.boolean_or("add_prefix_space", true)) {
      if (scheme && prepend_ != Prepend::kNever)
        scheme->unexpected("\"never\", as add_prefix_space is false");
      prepend_ = Prepend::kNever;
    }
  }

  void apply(SplitText& split, MatchScratch&) const override {
    rewrite_pieces(split, [this](const Piece& piece, std::string_view text, std::string& out) {
      const bool wanted =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_text_start);
      if (wanted && !text.starts_with(' ') && !text.starts_with(replacement_)) out += replacement_;
      for (std::size_t done = 0; done < text.size();) {
        const std::size_t space = std::min(text.find(' ', done), text.size());
        out.append(text, done, space - done);
        if (space < text.size()) out += replacement_;
        done = space + 1;
      }
    });
    if (!split_) return;
    split_pieces(split, SplitBehavior::kMergedWithNext,
                 [this](std::string_view text, std::vector<Span>& spans) {
                   find_code_points(
                       text, [this](char32_t c) { return c == replacement_char_; }, spans);
                 });
  }

 private:
  bool split_;
  char32_t replacement_char_ = 0;
  std::string replacement_;
  Prepend prepend_ = Prepend::kAlways;
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(std::int64_t code_points) : code_points_(code_points) {}
  void apply(SplitText& split, MatchScratch&) const override {
    split_pieces(split, SplitBehavior::kIsolated, [this](std::string_view text, std::vector<Span>& spans) {
      for (std::size_t begin = 0; begin < text.size();) {
        std::size_t end = begin;
        for (std::int64_t n = 0; n < code_points_ && end < text.size(); ++n) end += utf8_length(text[end]);
        spans.push_back({begin, end, false});
        begin = end;
      }
    });
  }

 private:
  std::int64_t code_points_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPtr> parts) : parts_(std::move(parts)) {}
  void apply(SplitText& split, MatchScratch& scratch) const override {
    for (const auto& part : parts_) part->apply(split, scratch);
  }

 private:
  std::vector<PreTokenizerPtr> parts_;
};

PreTokenizerPtr make_sequence(const JsonField& field) {
  std::vector<PreTokenizerPtr> parts;
  for (const JsonField& item : field.at("pretokenizers").items()) parts.push_back(make_pre_tokenizer(item));
  return std::make_unique<Sequence>(std::move(parts));
}

PreTokenizerPtr make_bert(const JsonField&) {
  std::vector<PreTokenizerPtr> parts;
  parts.push_back(std::make_unique<WhitespaceSplit>(SplitBehavior::kRemoved));
  parts.push_back(std::make_unique<Punctuation>(SplitBehavior::kIsolated));
  return std::make_unique<Sequence>(std::move(parts));
}

const Component<PreTokenizerPtr> kPreTokenizers[] = {
    {"ByteLevel",
     [](const JsonField& f) -> PreTokenizerPtr {
       return std::make_unique<ByteLevel>(f.at("add_prefix_space").boolean(),
                                          f.boolean_or("use_regex", true));
     }},
    {"Split",
     [](const JsonField& f) -> PreTokenizerPtr {
       return std::make_unique<Split>(Pattern(f.at("pattern")), behavior_of(f.at("behavior")),
                                      f.at("invert").boolean());
     }},
    {"Digits",
     [](const JsonField& f) -> PreTokenizerPtr {
       return std::make_unique<Digits>(f.at("individual_digits").boolean() ? SplitBehavior::kIsolated
                                                                           : SplitBehavior::kContiguous);
     }},
    {"Whitespace",
     [](const JsonField&) -> PreTokenizerPtr {
       return std::make_unique<Split>(Pattern(kWordsPattern, "Whitespace"), SplitBehavior::kRemoved, true);
     }},
    {"WhitespaceSplit",
     [](const JsonField&) -> PreTokenizerPtr {
       return std::make_unique<WhitespaceSplit>(SplitBehavior::kRemoved);
     }},
    {"Punctuation",
     [](const JsonField& f) -> PreTokenizerPtr {
       const auto behavior = f.find("behavior");
       return std::make_unique<Punctuation>(behavior ? behavior_of(*behavior) : SplitBehavior::kIsolated);
     }},
    {"Metaspace", [](const JsonField& f) -> PreTokenizerPtr { return std::make_unique<Metaspace>(f); }},
    {"CharDelimiterSplit",
     [](const JsonField& f) -> PreTokenizerPtr {
       return std::make_unique<CharDelimiterSplit>(one_code_point(f.at("delimiter")));
     }},
    {"BertPreTokenizer", make_bert},
    {"FixedLength",
     [](const JsonField& f) -> PreTokenizerPtr {
       const auto length = f.find("length");
       return std::make_unique<FixedLength>(length ? length->integer(1, INT32_MAX) : 5);
     }},
    {"Sequence", make_sequence},
};

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonField& field) {
  return make_component(kPreTokenizers, field);
}

std::unique_ptr<PreTokenizer> make_tiktoken_pre_tokenizer(std::string_view pattern) {
  std::vector<PreTokenizerPtr> parts;
  parts.push_back(std::make_unique<Split>(Pattern(pattern, "pattern"), SplitBehavior::kIsolated, false));
  parts.push_back(std::make_unique<ByteLevel>(false, false));
  return std::make_unique<Sequence>(std::move(parts));
}

}  // namespace swiftprune::text
