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

std::optional<std::string> LineReader::next() {
  constexpr int kPatienceMs = 100;  // between two looks at whether the run is stopped
  while (true) {
    if (const std::size_t end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    if (ended_) return pending_.empty() ? std::nullopt : std::optional(std::exchange(pending_, {}));
    check_interrupt();
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const int ready = ::poll(&input, 1, kPatienceMs);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    std::array<char, 4096> buffer{};
    const ssize_t count = ready < 0 ? -1 : ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kFailure, "standard input: cannot be read: {}", std::strerror(errno));
    ended_ = count == 0;
    pending_.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace swiftprune::cli
