// write MODEL TEXT...: goes on with each text, on a GPU where there is one.
#include <cstdio>

#include <swiftprune/api/text_generator.h>

namespace {

int failed(const swiftprune::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return static_cast<int>(error.kind());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} MODEL TEXT...\n", argv[0]);
    return 2;
  }
  swiftprune::TextGeneratorOptions options;
  options.model = argv[1];
  options.where.device = "auto";
  const auto generator = swiftprune::TextGenerator::open(options);
  if (!generator) return failed(generator.error());
  for (int i = 2; i < argc; ++i) {
    fmt::print("{}", argv[i]);
    const auto written = generator.value()->generate(std::string_view(argv[i]), {.max_tokens = 40}, {},
                                                     [](std::string_view piece) { fmt::print("{}", piece); });
    if (!written) return failed(written.error());
    fmt::print("\n");
  }
  return 0;
}
