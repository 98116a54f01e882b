#include "swiftprune/core/cpu_features.h"

#include <cstdlib>
#include <fstream>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

CpuFeatures detect() {
  CpuFeatures f;
#if defined(__x86_64__)
  __builtin_cpu_init();
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
             __builtin_cpu_supports("avx512vnni");
  f.avx512_bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
  // GCC 12 does not know "amx-bf16" in __builtin_cpu_supports; the kernel's flags also say whether it is
  // switched on.
  if (f.avx512_bf16) {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
      if (!line.starts_with("flags")) continue;
      f.amx = line.find(" amx_tile") != std::string::npos && line.find(" amx_bf16") != std::string::npos &&
              line.find(" amx_int8") != std::string::npos;
      break;
    }
  }
#endif
  return f;
}

CpuFeatures limited(const CpuFeatures& have, std::string_view wish) {
  const int level = wish == "baseline"      ? 0
                    : wish == "avx2"        ? 1
                    : wish == "avx512"      ? 2
                    : wish == "avx512_bf16" ? 3
                    : wish == "amx"         ? 4
                                            : -1;
  if (level < 0) {
    bad_usage("SWIFTPRUNE_ISA: found '{}', expected baseline, avx2, avx512, avx512_bf16 or amx", wish);
  }
  const CpuFeatures want{level >= 1, level >= 2, level >= 3, level >= 4};
  if ((want.avx2 && !have.avx2) || (want.avx512 && !have.avx512) || (want.avx512_bf16 && !have.avx512_bf16) ||
      (want.amx && !have.amx)) {
    fail(ErrorKind::kDevice, "SWIFTPRUNE_ISA: found '{}', but this processor lacks it; unset the variable",
         wish);
  }
  return want;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    const CpuFeatures have = detect();
    const char* wish = std::getenv("SWIFTPRUNE_ISA");
    return wish == nullptr || *wish == '\0' ? have : limited(have, wish);
  }();
  return features;
}

std::string isa_name() {
  const CpuFeatures& f = cpu_features();
  if (f.amx) return "AVX-512 + AMX";
  if (f.avx512_bf16) return "AVX-512 + bf16";
  if (f.avx512) return "AVX-512";
  return f.avx2 ? "AVX2" : "baseline";
}

std::string cpu_model_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace swiftprune
