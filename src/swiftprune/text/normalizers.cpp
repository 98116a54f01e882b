#include "swiftprune/text/normalizers.h"

#include "swiftprune/text/byte_level.h"
#include "swiftprune/text/pattern.h"
#include "swiftprune/text/precompiled_charsmap.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

using NormalizerPtr = std::unique_ptr<Normalizer>;

// change(code point, out) appends what becomes of it. False when the first one goes.
template <class Change>
bool change_code_points(std::string& text, const Change& change) {
  std::string out;
  out.reserve(text.size());
  bool first_stays = true;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = code_point_at(text, i);
    change(c.value, out);
    if (i == 0) first_stays = !out.empty();
    i += c.bytes;
  }
  text = std::move(out);
  return first_stays;
}

template <NormalForm form>
class Form : public Normalizer {
 public:
  bool apply(std::string& text, MatchScratch&) const override {
    text = normalized(text, form);
    return true;
  }
};

class Lowercase : public Normalizer {
 public:
  bool apply(std::string& text, MatchScratch&) const override {
    return change_code_points(text, [](char32_t c, std::string& out) { append_lowercase(out, c); });
  }
};

class StripAccents : public Normalizer {
 public:
  bool apply(std::string& text, MatchScratch&) const override {
    return change_code_points(text, [](char32_t c, std::string& out) {
      if (!is_combining_mark(c)) append_utf8(out, c);
    });
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  bool apply(std::string& text, MatchScratch&) const override {
    std::size_t begin = 0;
    std::size_t end = text.size();
    while (left_ && begin < end) {
      const CodePoint c = code_point_at(text, begin);
      if (!is_whitespace(c.value)) break;
      begin += c.bytes;
    }
    while (right_ && begin < end) {
      const std::size_t last = previous_boundary(text, end);
      if (!is_whitespace(code_point_at(text, last).value)) break;
      end = last;
    }
    text = text.substr(begin, end - begin);
    return begin == 0;
  }

 private:
  bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  bool apply(std::string& text, MatchScratch&) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return true;
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  bool apply(std::string& text, MatchScratch& scratch) const override {
    const std::size_t letter = text.empty() ? 0 : utf8_length(text[0]);
    std::size_t gone = 0;
    text = pattern_.replaced(text, content_, scratch, &gone);
    // A letter alone becomes the content; of several together the last one does.
    return gone == 0 || (gone == letter && !content_.empty());
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(PrecompiledCharsmap charsmap) : charsmap_(std::move(charsmap)) {}
  bool apply(std::string& text, MatchScratch&) const override {
    text = charsmap_.normalized(text);
    return true;
  }

 private:
  PrecompiledCharsmap charsmap_;
};

class ByteLevel : public Normalizer {
 public:
  bool apply(std::string& text, MatchScratch&) const override {
    std::string out;
    append_byte_level(out, text);
    text = std::move(out);
    return true;
  }
};

// Controls and odd spaces as SentencePiece's "nmt" rules treat them.
class Nmt : public Normalizer {
 public:
  bool apply(std::string& text, MatchScratch&) const override {
    return change_code_points(text, [](char32_t c, std::string& out) {
      const bool dropped = (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
                           c == 0x8F || c == 0x9F;
      if (dropped) return;
      const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                         (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                         c == 0xFEFF || c == 0xFFFD;
      append_utf8(out, space ? U' ' : c);
    });
  }
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(const JsonField& field) {
    for (const JsonField& item : field.at("normalizers").items()) parts_.push_back(make_normalizer(item));
  }
  bool apply(std::string& text, MatchScratch& scratch) const override {
    bool first_stays = true;
    for (const auto& part : parts_) first_stays = part->apply(text, scratch) && first_stays;
    return first_stays;
  }

 private:
  std::vector<NormalizerPtr> parts_;
};

template <class T>
NormalizerPtr plain(const JsonField&) {
  return std::make_unique<T>();
}

const Component<NormalizerPtr> kNormalizers[] = {
    {"NFC", plain<Form<NormalForm::kNfc>>},
    {"NFD", plain<Form<NormalForm::kNfd>>},
    {"NFKC", plain<Form<NormalForm::kNfkc>>},
    {"NFKD", plain<Form<NormalForm::kNfkd>>},
    {"Lowercase", plain<Lowercase>},
    {"StripAccents", plain<StripAccents>},
    {"Strip",
     [](const JsonField& f) -> NormalizerPtr {
       return std::make_unique<Strip>(f.at("strip_left").boolean(), f.at("strip_right").boolean());
     }},
    {"Prepend",
     [](const JsonField& f) -> NormalizerPtr { return std::make_unique<Prepend>(f.at("prepend").string()); }},
    {"Replace",
     [](const JsonField& f) -> NormalizerPtr {
       return std::make_unique<Replace>(Pattern(f.at("pattern")), f.at("content").string());
     }},
    {"Precompiled",
     [](const JsonField& f) -> NormalizerPtr {
       const JsonField map = f.at("precompiled_charsmap");
       return std::make_unique<Precompiled>(PrecompiledCharsmap::from_base64(map.string(), map.where()));
     }},
    {"ByteLevel", plain<ByteLevel>},
    {"Nmt", plain<Nmt>},
    {"Sequence", [](const JsonField& f) -> NormalizerPtr { return std::make_unique<Sequence>(f); }},
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const JsonField& field) {
  return make_component(kNormalizers, field);
}

}  // namespace swiftprune::text
