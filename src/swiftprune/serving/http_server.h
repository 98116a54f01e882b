// httplib's server with connections that keep what they have read: a client may send requests before it has the answer to
// the first (RFC 9112, 9.3.2), which the library reads and drops. A private header: it shows the library's types.
#pragma once

#include <httplib.h>

namespace swiftprune {

class HttpServer : public httplib::Server {
 public:
  // Takes the library's one post-routing handler.
  HttpServer();

 protected:
  // Reads a request and answers it; false when the connection ends with it: the client is gone, it asked for that, or the
  // answer says "Connection: close".
  bool answer_one(httplib::Stream& stream, bool last);

 private:
  bool process_and_close_socket(socket_t socket) override;
};

}  // namespace swiftprune
