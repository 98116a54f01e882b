// write MODEL TEXT...: goes on with each text, on a GPU where there is one.
#include <cstdio>

#include <swiftprune/api/text_writer.h>
#include <swiftprune/core/error.h>

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} MODEL TEXT...\n", argv[0]);
    return 2;
  }
  try {
    const auto device = swiftprune::open_device("auto");
    swiftprune::TextWriter writer(argv[1], *device, device->default_compute());
    for (int i = 2; i < argc; ++i) {
      swiftprune::Writing writing = writer.write(writer.prompt(argv[i]), {.max_tokens = 40});
      fmt::print("{}", argv[i]);
      while (const auto piece = writing.next()) fmt::print("{}", *piece);
      fmt::print("\n");
    }
    return 0;
  } catch (const swiftprune::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.kind());
  }
}
