#include "swiftprune/core/cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

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
#elif defined(__aarch64__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP of the kernel's interface
  f.neon = true;
  f.neon_dot = (::getauxval(AT_HWCAP) & kDotProducts) != 0;
#endif
  return f;
}

struct Level {
  std::string_view name;
  CpuFeatures features;
};
constexpr std::array<Level, 7> kLevels = {{
    {"baseline", {}},
    {"avx2", {.avx2 = true}},
    {"avx512", {.avx2 = true, .avx512 = true}},
    {"avx512_bf16", {.avx2 = true, .avx512 = true, .avx512_bf16 = true}},
    {"amx", {.avx2 = true, .avx512 = true, .avx512_bf16 = true, .amx = true}},
    {"neon", {.neon = true}},
    {"neon_dot", {.neon = true, .neon_dot = true}},
}};

CpuFeatures limited(const CpuFeatures& have, std::string_view wish) {
  const auto level =
      std::find_if(kLevels.begin(), kLevels.end(), [&](const Level& l) { return l.name == wish; });
  if (level == kLevels.end()) {
    bad_usage(
        "SWIFTPRUNE_ISA: found '{}', expected baseline, avx2, avx512, avx512_bf16, amx, neon or neon_dot",
        wish);
  }
  const CpuFeatures& want = level->features;
  for (const auto feature : {&CpuFeatures::avx2, &CpuFeatures::avx512, &CpuFeatures::avx512_bf16,
                             &CpuFeatures::amx, &CpuFeatures::neon, &CpuFeatures::neon_dot}) {
    if (!(want.*feature) || have.*feature) continue;
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
  if (f.avx2) return "AVX2";
  if (f.neon_dot) return "NEON + dot products";
  return f.neon ? "NEON" : "baseline";
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
