// Which instruction sets this processor has, asked once; per-ISA kernels are chosen by it at run time.
#pragma once

#include <string>
#include <string_view>

namespace swiftprune {

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA, F16C, BMI2
  bool avx512 = false;       // AVX-512 F/BW/DQ/VL, VBMI, VBMI2, VNNI
  bool avx512_bf16 = false;  // vdpbf16ps
  bool amx = false;          // tile, bf16 and int8 products
  bool neon = false;         // every 64-bit Arm
  bool neon_dot = false;     // products of four bytes (ARMv8.2's dotprod)
};

// Features to use. The environment variable SWIFTPRUNE_ISA=baseline|avx2|avx512|avx512_bf16|amx|neon|neon_dot lowers
// them (it never raises them; asking for one that the processor lacks is an Error of kind kDevice).
const CpuFeatures& cpu_features();

// "AVX-512 + bf16", "AVX2", "baseline": what the choice comes to, for logs and records.
std::string isa_name();

// The processor's own name, for records and benchmarks.
std::string cpu_model_name();

}  // namespace swiftprune
