#include "swiftprune/serving/http_server.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace swiftprune {
namespace {

using std::chrono::milliseconds;

// Between two looks at whether the server stops.
constexpr milliseconds kSlice{100};

// Of the request that this thread answers; the library hands a handler no way to the connection.
thread_local bool says_close = false;

int wait_for(socket_t socket, short what, milliseconds time) {
  pollfd one{socket, what, 0};
  int ready = 0;
  do ready = ::poll(&one, 1, static_cast<int>(time.count()));
  while (ready < 0 && errno == EINTR);
  return ready;
}

// One side of a connection: of ::getpeername or ::getsockname.
template <class NameOf>
void address_of(socket_t socket, const NameOf& name_of, std::string& ip, int& port) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  char host[NI_MAXHOST] = "", service[NI_MAXSERV] = "";
  if (name_of(socket, generic, &size) != 0 ||
      ::getnameinfo(generic, size, host, sizeof host, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  ip = host;
  port = std::atoi(service);
}

class Connection final : public httplib::Stream {
 public:
  Connection(socket_t socket, milliseconds read_timeout, milliseconds write_timeout)
      : socket_(socket), read_timeout_(read_timeout), write_timeout_(write_timeout) {}
  using httplib::Stream::write;

  // Whether a request, or a part of one, comes in time and before `stops`.
  template <class Stops>
  bool awaits_request(milliseconds time, const Stops& stops) const {
    if (begin_ < end_) return !stops();
    for (const auto until = std::chrono::steady_clock::now() + time; !stops();) {
      const int ready = wait_for(socket_, POLLIN, std::min(kSlice, time));
      if (ready != 0) return ready > 0;
      if (std::chrono::steady_clock::now() >= until) return false;
    }
    return false;
  }

  bool is_readable() const override { return begin_ < end_ || wait_for(socket_, POLLIN, read_timeout_) > 0; }
  // Also that the client still sends: of one that waits for a stream, the only sign that it has gone away.
  bool is_writable() const override {
    if (!takes_more()) return false;
    char next = 0;
    const ssize_t n = ::recv(socket_, &next, 1, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
  }
  ssize_t read(char* to, std::size_t size) override {
    if (begin_ == end_) {
      if (!is_readable()) return -1;
      const bool direct = size >= buffer_.size();
      ssize_t n = 0;
      do n = direct ? ::recv(socket_, to, size, 0) : ::recv(socket_, buffer_.data(), buffer_.size(), 0);
      while (n < 0 && errno == EINTR);
      if (direct || n <= 0) return n;
      begin_ = 0;
      end_ = static_cast<std::size_t>(n);
    }
    const std::size_t taken = std::min(size, end_ - begin_);
    std::memcpy(to, buffer_.data() + begin_, taken);
    begin_ += taken;
    return static_cast<ssize_t>(taken);
  }
  // What is at hand goes to clients that have sent all they want to (shutdown(SHUT_WR)), too.
  ssize_t write(const char* from, std::size_t size) override {
    if (!takes_more()) return -1;
    ssize_t n = 0;
    do n = ::send(socket_, from, size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n;
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    address_of(socket_, ::getpeername, ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    address_of(socket_, ::getsockname, ip, port);
  }
  socket_t socket() const override { return socket_; }

 private:
  bool takes_more() const { return wait_for(socket_, POLLOUT, write_timeout_) > 0; }

  const socket_t socket_;
  const milliseconds read_timeout_, write_timeout_;
  std::array<char, 4096> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // what was read and not yet taken
};

// The library would send the bytes of Range alone, with the status 200 that the handler gave: a server may answer the whole
// (RFC 9110, 14.2). And an address may be written with its host (RFC 9112, 3.2.2).
void set_right(httplib::Request& request) {
  request.ranges.clear();
  constexpr std::string_view kScheme = "http://";
  if (!request.path.starts_with(kScheme)) return;
  const std::size_t slash = request.path.find('/', kScheme.size());
  request.path = slash == std::string::npos ? "/" : request.path.substr(slash);
}

milliseconds time_of(time_t seconds, time_t microseconds) {
  return std::chrono::seconds(seconds) +
         std::chrono::duration_cast<milliseconds>(std::chrono::microseconds(microseconds));
}

}  // namespace

HttpServer::HttpServer() {
  set_post_routing_handler([](const httplib::Request&, httplib::Response& response) {
    says_close = response.get_header_value("Connection") == "close";
    if (says_close) response.headers.erase("Keep-Alive");
  });
}

bool HttpServer::answer_one(httplib::Stream& stream, bool last) {
  bool asked_to_close = false;
  says_close = false;
  return process_request(stream, last, asked_to_close, set_right) && !asked_to_close && !says_close;
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  Connection connection(socket, time_of(read_timeout_sec_, read_timeout_usec_),
                        time_of(write_timeout_sec_, write_timeout_usec_));
  const auto stops = [this] { return svr_sock_ == INVALID_SOCKET; };
  std::size_t left = keep_alive_max_count_;
  while (left > 0 && connection.awaits_request(std::chrono::seconds(keep_alive_timeout_sec_), stops) &&
         answer_one(connection, left == 1)) {
    --left;
  }
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
  return true;
}

}  // namespace swiftprune
