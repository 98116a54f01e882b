// What Oniguruma (Ruby syntax, Unicode) and PCRE2 (UTF, UCP) read differently, from both manuals:
//   \w           alphabetic, marks, decimal digits, connectors | letters, numbers, underscore
//   \h \H        a hexadecimal digit (not) | horizontal space (not)
//   \b \B        by the respective \w
//   (?m)         the dot matches a newline | ^ and $ match at lines (which Ruby always does)
//   X{n,m}+      X{n,m}, repeated | possessive
//   X{n}?        optional | lazy
//   X{,n}        from 0 to n | literally
//   \uHHHH       a code point | not allowed
//   \p{Letter}   long names of general categories | not known
// Set intersection (&&) and nested sets exist only in Oniguruma.
#include <algorithm>
#include <array>
#include <cctype>
#include <stdexcept>
#include <utility>

#include "swiftprune/text/regex.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kHexDigit = "0-9A-Fa-f";

constexpr std::pair<std::string_view, std::string_view> kPropertyNames[] = {
    {"letter", "L"},
    {"casedletter", "L&"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
    {"alpha", "Alphabetic"},
    {"lower", "Lowercase"},
    {"upper", "Uppercase"},
    {"space", "White_Space"},
    {"digit", "Nd"},
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  bool ahead(std::string_view what) const { return in_.substr(at_).starts_with(what); }

  void copy(std::size_t bytes) {
    out_.append(in_, at_, bytes);
    at_ = std::min(at_ + bytes, in_.size());
  }

  void step() {
    switch (in_[at_]) {
      case '\\':
        atom_ = out_.size();
        return escape(false);
      case '[':
        atom_ = out_.size();
        return set();
      case '(':
        return open_group();
      case ')':
        atom_ = groups_.empty() ? out_.size() : groups_.back();
        if (!groups_.empty()) groups_.pop_back();
        return copy(1);
      case '{':
        return interval();
      case '*':
      case '+':
      case '?':
      case '|':
      case '^':
      case '$':
        return copy(1);
      default:
        atom_ = out_.size();
        return copy(utf8_length(in_[at_]));
    }
  }

  void open_group() {
    groups_.push_back(out_.size());
    copy(1);
    if (!ahead("?")) return;
    if (ahead("?#")) {
      const std::size_t end = in_.find(')', at_);
      return copy((end == std::string_view::npos ? in_.size() : end) - at_);
    }
    copy(1);
    std::size_t end = at_;
    while (end < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[end])) != 0 || in_[end] == '-'))
      ++end;
    if (end == in_.size() || (in_[end] != ':' && in_[end] != ')')) return;  // look-around, name, atomic
    for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
    if (in_[end] == ')') {  // flags for the rest of the group: nothing to repeat
      copy(1);
      groups_.pop_back();
    }
  }

  // {n}, {n,}, {,m}, {n,m}; anything else in braces is literal text.
  void interval() {
    const std::size_t close = in_.find('}', at_);
    std::string_view body = close == std::string_view::npos ? "" : in_.substr(at_ + 1, close - at_ - 1);
    const bool numbers = !body.empty() && body != "," && std::all_of(body.begin(), body.end(), [](char c) {
      return (c >= '0' && c <= '9') || c == ',';
    }) && std::count(body.begin(), body.end(), ',') <= 1;
    if (!numbers) {
      atom_ = out_.size();
      out_ += '\\';
      return copy(1);
    }
    out_ += '{';
    if (body.starts_with(',')) out_ += '0';
    out_ += body;
    out_ += '}';
    at_ = close + 1;
    const bool fixed = body.find(',') == std::string_view::npos;
    if (ahead("+") || (fixed && ahead("?"))) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      copy(1);
    }
  }

  void set() {
    copy(1);
    if (ahead("^")) copy(1);
    if (ahead("]")) {
      out_ += '\\';
      copy(1);
    }
    while (at_ < in_.size() && in_[at_] != ']') {
      if (ahead("&&")) throw std::invalid_argument("set intersection (&&) is not supported");
      if (ahead("[:")) {
        const std::size_t end = in_.find(":]", at_);
        if (end == std::string_view::npos) throw std::invalid_argument("unclosed [: in a set");
        copy(end + 2 - at_);
      } else if (ahead("[")) {
        throw std::invalid_argument("a set inside a set is not supported");
      } else if (ahead("\\")) {
        escape(true);
      } else {
        copy(utf8_length(in_[at_]));
      }
    }
    copy(1);
  }

  void escape(bool in_set) {
    if (at_ + 1 >= in_.size()) return copy(1);
    const char letter = in_[at_ + 1];
    switch (letter) {
      case 'w':
      case 'h':
        return replace_class(letter == 'w' ? kWord : kHexDigit, false, in_set);
      case 'W':
      case 'H':
        if (in_set) throw std::invalid_argument("\\W and \\H in a set are not supported");
        return replace_class(letter == 'W' ? kWord : kHexDigit, true, in_set);
      case 'b':
      case 'B':
        if (in_set) return copy(2);
        at_ += 2;
        out_ += word_boundary(letter == 'B');
        return;
      case 'u':
        at_ += 2;
        out_ += "\\x{";
        out_.append(in_, at_, 4);
        out_ += '}';
        at_ = std::min(at_ + 4, in_.size());
        return;
      case 'p':
      case 'P':
        return property();
      case 'x':
        return copy(2);
      default:
        return copy(1 + utf8_length(letter));
    }
  }

  void replace_class(std::string_view members, bool negated, bool in_set) {
    at_ += 2;
    if (!in_set) out_ += negated ? "[^" : "[";
    out_ += members;
    if (!in_set) out_ += ']';
  }

  static std::string word_boundary(bool negated) {
    const std::string word = "[" + std::string(kWord) + "]";
    const std::string here = "(?<=" + word + ")";
    const std::string not_here = "(?<!" + word + ")";
    const std::string ahead = "(?=" + word + ")";
    const std::string not_ahead = "(?!" + word + ")";
    if (negated) return "(?:" + here + ahead + "|" + not_here + not_ahead + ")";
    return "(?:" + here + not_ahead + "|" + not_here + ahead + ")";
  }

  void property() {
    const std::size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) return copy(2);
    std::string name;
    for (const char c : in_.substr(at_ + 3, close - at_ - 3)) {
      if (c != ' ' && c != '_' && c != '-')
        name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    const bool inverted = name.starts_with('^');
    if (inverted) name.erase(0, 1);
    const auto* known = std::find_if(std::begin(kPropertyNames), std::end(kPropertyNames),
                                     [&](const auto& row) { return row.first == name; });
    if (known == std::end(kPropertyNames)) return copy(close + 1 - at_);
    out_ += '\\';
    out_ += in_[at_ + 1];
    out_ += inverted ? "{^" : "{";
    out_ += known->second;
    out_ += '}';
    at_ = close + 1;
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  std::size_t atom_ = 0;             // where in out_ the last repeatable item starts
  std::vector<std::size_t> groups_;  // where in out_ the open groups start
};

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma_pattern) { return Translator(oniguruma_pattern).run(); }

}  // namespace swiftprune::text
