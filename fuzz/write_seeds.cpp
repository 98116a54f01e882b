// write_seeds tests/data FOLDER: FOLDER/<target>/<number> for every seed.
#include <cstdio>
#include <fstream>

#include "seeds.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s tests/data FOLDER\n", argv[0]);
    return 2;
  }
  for (const auto& [target, inputs] : swiftprune::fuzz::seeds(argv[1])) {
    const std::filesystem::path folder = std::filesystem::path(argv[2]) / target;
    std::filesystem::create_directories(folder);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      std::ofstream(folder / ("seed" + std::to_string(i)), std::ios::binary) << inputs[i];
    std::printf("%-20s %zu seeds\n", target.c_str(), inputs.size());
  }
  return 0;
}
