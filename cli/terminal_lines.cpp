#include "terminal_lines.h"

#include <histedit.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <utility>

#include <fmt/format.h>

#include "line_reader.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune::cli {
namespace {

constexpr int kKeptLines = 1000;

// Characters of more than a byte are those of the terminal; where the environment names no locale, UTF-8.
void use_terminal_characters() {
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
}

bool stopped() { return current_run().stop.stop_requested(); }

}  // namespace

struct TerminalLines::Editor {
  explicit Editor(std::atomic<bool>& dropped_line) : dropped(dropped_line) {
    use_terminal_characters();
    line = ::el_init("swiftprune", stdin, stderr, stderr);
    if (line == nullptr || lines == nullptr)
      fail(ErrorKind::kFailure, "the terminal: no memory for its lines");
    ::el_set(line, EL_CLIENTDATA, this);
    ::el_set(line, EL_PROMPT, prompt_of);
    ::el_set(line, EL_GETCFN, read_character);
    ::el_set(line, EL_EDITOR, "emacs");
    ::el_set(line, EL_SIGNAL, 0);
    ::el_set(line, EL_HIST, ::history, lines);
    HistEvent event;
    ::history(lines, &event, H_SETSIZE, kKeptLines);
    ::history(lines, &event, H_SETUNIQUE, 1);
  }
  ~Editor() {
    if (lines != nullptr) ::history_end(lines);
    if (line != nullptr) ::el_end(line);
  }

  static Editor& of(EditLine* line) {
    void* data = nullptr;
    ::el_get(line, EL_CLIENTDATA, &data);
    return *static_cast<Editor*>(data);
  }
  static char* prompt_of(EditLine* line) { return of(line).prompt.data(); }

  // libedit's own waits for a key whatever happens. 1: a character, 0: the end, -1: the line is given up.
  static int read_character(EditLine* line, wchar_t* to) {
    Editor& self = of(line);
    std::mbstate_t state{};
    while (true) {
      if (self.dropped || stopped()) return -1;
      char byte = 0;
      const std::optional<ssize_t> count = read_input({&byte, 1});
      if (!count) continue;
      if (*count <= 0) return 0;
      // Ctrl-D that was typed before the line began: so the terminal keeps it.
      if (byte == '\0') byte = '\x04';
      const std::size_t length = std::mbrtowc(to, &byte, 1, &state);
      if (length == static_cast<std::size_t>(-1)) state = {};  // no character: left out
      if (length <= 1) return 1;
    }
  }

  std::atomic<bool>& dropped;
  EditLine* line = nullptr;
  ::History* lines = ::history_init();
  std::string prompt;
};

TerminalLines::TerminalLines(std::string hint)
    : hint_(std::move(hint)), editor_(std::make_unique<Editor>(dropped_)) {}
TerminalLines::~TerminalLines() = default;

std::optional<std::string> TerminalLines::next(const std::string& prompt) {
  editor_->prompt = prompt;
  while (true) {
    dropped_ = false;
    int count = 0;
    const char* text = ::el_gets(editor_->line, &count);
    check_interrupt();
    if (dropped_) {
      fmt::print(stderr, "\n{}", hint_);
      continue;
    }
    if (text == nullptr || count <= 0) return std::nullopt;
    std::string line(text, static_cast<std::size_t>(count));
    if (line.ends_with('\n')) line.pop_back();
    HistEvent event;
    if (!line.empty()) ::history(editor_->lines, &event, H_ENTER, line.c_str());
    return line;
  }
}

}  // namespace swiftprune::cli
