#include "swiftprune/text/decoders.h"

#include <algorithm>

#include "swiftprune/text/byte_level.h"
#include "swiftprune/text/pattern.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

using DecoderPtr = std::unique_ptr<Decoder>;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

std::string concatenated(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

class ByteLevel : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += byte_level_bytes(token).value_or(token);
    tokens.assign(1, replace_invalid_utf8(bytes));
  }
};

class ByteFallback : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    std::vector<std::string> out;
    std::string bytes;  // of a run of byte tokens
    const auto end_run = [&] {
      if (bytes.empty()) return;
      if (!invalid_utf8_position(bytes))
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        bytes += static_cast<char>(byte);
      } else {
        end_run();
        out.push_back(std::move(token));
      }
    }
    end_run();
    tokens = std::move(out);
  }

 private:
  // "<0x41>" -> 0x41; others -> -1
  static int byte_of(const std::string& token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    int value = 0;
    for (const char c : {token[3], token[4]}) {
      if (c >= '0' && c <= '9')
        value = value * 16 + (c - '0');
      else if (c >= 'A' && c <= 'F')
        value = value * 16 + (c - 'A' + 10);
      else if (c >= 'a' && c <= 'f')
        value = value * 16 + (c - 'a' + 10);
      else
        return -1;
    }
    return value;
  }
};

class Fuse : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    tokens.assign(1, concatenated(tokens));
  }
};

class Replace : public Decoder {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens, MatchScratch& scratch) const override {
    for (std::string& token : tokens) token = pattern_.replaced(token, content_, scratch);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// Takes up to `start` of a character from the front of each token and up to `stop` from its end.
class Strip : public Decoder {
 public:
  Strip(char32_t content, std::int64_t start, std::int64_t stop) : start_(start), stop_(stop) {
    append_utf8(content_, content);
  }
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::string& token : tokens) {
      std::string_view kept = token;
      for (std::int64_t i = 0; i < start_ && kept.starts_with(content_); ++i)
        kept.remove_prefix(content_.size());
      for (std::int64_t i = 0; i < stop_ && kept.ends_with(content_); ++i)
        kept.remove_suffix(content_.size());
      token = std::string(kept);
    }
  }

 private:
  std::string content_;
  std::int64_t start_, stop_;
};

class Metaspace : public Decoder {
 public:
  explicit Metaspace(const JsonField& field) {
    append_utf8(replacement_, one_code_point(field.at("replacement")));
    prepended_ = field.boolean_or("add_prefix_space", true) && field.string_if("prepend_scheme") != "never";
  }
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      replace_all(tokens[i], replacement_, i == 0 && prepended_ ? "" : " ");
    }
  }

 private:
  std::string replacement_;
  bool prepended_;
};

class BpeSuffix : public Decoder {
 public:
  explicit BpeSuffix(std::string suffix) : suffix_(std::move(suffix)) {}
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      replace_all(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
    }
  }

 private:
  std::string suffix_;
};

// Takes back the spaces that word splitting put before punctuation and contractions.
void clean_up(std::string& text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

class WordPiece : public Decoder {
 public:
  WordPiece(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void apply(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) {
        if (tokens[i].starts_with(prefix_))
          tokens[i].erase(0, prefix_.size());
        else
          tokens[i].insert(tokens[i].begin(), ' ');
      }
      if (cleanup_) clean_up(tokens[i]);
    }
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(const JsonField& field) {
    for (const JsonField& item : field.at("decoders").items()) parts_.push_back(make_decoder(item));
  }
  void apply(std::vector<std::string>& tokens, MatchScratch& scratch) const override {
    for (const auto& part : parts_) part->apply(tokens, scratch);
  }

 private:
  std::vector<DecoderPtr> parts_;
};

template <class T>
DecoderPtr plain(const JsonField&) {
  return std::make_unique<T>();
}

const Component<DecoderPtr> kDecoders[] = {
    {"ByteLevel", plain<ByteLevel>},
    {"ByteFallback", plain<ByteFallback>},
    {"Fuse", plain<Fuse>},
    {"Replace",
     [](const JsonField& f) -> DecoderPtr {
       return std::make_unique<Replace>(Pattern(f.at("pattern")), f.at("content").string());
     }},
    {"Strip",
     [](const JsonField& f) -> DecoderPtr {
       return std::make_unique<Strip>(one_code_point(f.at("content")), f.at("start").integer(0, INT32_MAX),
                                      f.at("stop").integer(0, INT32_MAX));
     }},
    {"Metaspace", [](const JsonField& f) -> DecoderPtr { return std::make_unique<Metaspace>(f); }},
    {"BPEDecoder",
     [](const JsonField& f) -> DecoderPtr { return std::make_unique<BpeSuffix>(f.at("suffix").string()); }},
    {"WordPiece",
     [](const JsonField& f) -> DecoderPtr {
       return std::make_unique<WordPiece>(f.at("prefix").string(), f.at("cleanup").boolean());
     }},
    {"Sequence", [](const JsonField& f) -> DecoderPtr { return std::make_unique<Sequence>(f); }},
};

}  // namespace

std::unique_ptr<Decoder> make_decoder(const JsonField& field) { return make_component(kDecoders, field); }
std::unique_ptr<Decoder> make_byte_level_decoder() { return std::make_unique<ByteLevel>(); }

}  // namespace swiftprune::text
