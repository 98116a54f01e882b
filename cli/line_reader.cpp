#include "line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"

namespace swiftprune::cli {

std::optional<ssize_t> read_input(std::span<char> bytes) {
  constexpr int kPatienceMs = 100;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  const int ready = ::poll(&input, 1, kPatienceMs);
  if (ready == 0) return std::nullopt;
  const ssize_t count = ready < 0 ? -1 : ::read(STDIN_FILENO, bytes.data(), bytes.size());
  return count < 0 && errno == EINTR ? std::nullopt : std::optional(count);
}

std::optional<std::string> LineReader::next() {
  while (true) {
    if (const std::size_t end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    if (ended_) return pending_.empty() ? std::nullopt : std::optional(std::exchange(pending_, {}));
    check_interrupt();
    std::array<char, 4096> buffer{};
    const std::optional<ssize_t> count = read_input(buffer);
    if (!count) continue;
    if (*count < 0) fail(ErrorKind::kFailure, "standard input: cannot be read: {}", std::strerror(errno));
    ended_ = *count == 0;
    pending_.append(buffer.data(), static_cast<std::size_t>(*count));
  }
}

}  // namespace swiftprune::cli
