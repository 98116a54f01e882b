// What sm_90a adds: products of a warpgroup (four warps) from shared memory, tiles copied by the tensor
// memory accelerator, barriers that count bytes (PTX ISA, "wgmma", "cp.async.bulk.tensor", "mbarrier").
#pragma once

#include <cuda.h>

#include "swiftprune/cuda/runtime/tensor_core.cuh"

namespace swiftprune::cuda {

constexpr int kWarpgroup = 128;
constexpr int kSwizzle = 128;  // bytes of a row of a tile; tiles begin at multiples of eight rows

// -- Barriers in shared memory ------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(unsigned barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and the phase ends only when so many bytes were copied.
__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// A box of the map, from (column, head, row, sequence) on, to shared memory; its bytes count at the barrier.
__device__ __forceinline__ void copy_box(unsigned shared, const CUtensorMap* map, int column, int head,
                                         int row, int sequence, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared),
      "l"(map), "r"(column), "r"(head), "r"(row), "r"(sequence), "r"(barrier)
      : "memory");
}

// -- Products of a warpgroup --------------------------------------------------------------------------------

// Of a tile of rows of kSwizzle bytes. `leading`: bytes to the next kSwizzle bytes of a row that is longer,
// for tiles whose rows run along the sum (transposed); else unused.
__device__ __forceinline__ std::uint64_t tile_descriptor(unsigned shared, unsigned leading) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kEightRows = std::uint64_t{8 * kSwizzle >> 4} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{leading >> 4} << 16 | (shared & 0x3ffff) >> 4;
}
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the last kOpen groups are done.
template <int kOpen>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
// The compiler does not know that a product is still writing these: neither side of this moves across it.
template <int kCount>
__device__ __forceinline__ void pin(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

// c[4t + i] of a thread: row 16·warp + lane / 4 + 8·(i / 2), column 8t + 2·(lane % 4) + i % 2 of the [64, n]
// accumulator; a register operand is laid out as that of `multiply`.
#define SWIFTPRUNE_C8(c, i)                                                                   \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define SWIFTPRUNE_C32(c, i) \
  SWIFTPRUNE_C8(c, i), SWIFTPRUNE_C8(c, i + 8), SWIFTPRUNE_C8(c, i + 16), SWIFTPRUNE_C8(c, i + 24)
#define SWIFTPRUNE_C64(c, i) SWIFTPRUNE_C32(c, i), SWIFTPRUNE_C32(c, i + 32)
#define SWIFTPRUNE_C128(c, i) SWIFTPRUNE_C64(c, i), SWIFTPRUNE_C64(c, i + 64)
#define SWIFTPRUNE_N32                                                                                       \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%" \
  "28,"                                                                                                      \
  "%29,%30,%31"
#define SWIFTPRUNE_N64                                                                                     \
  SWIFTPRUNE_N32                                                                                           \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%" \
  "57,%58,"                                                                                                \
  "%59,%60,%61,%62,%63"
#define SWIFTPRUNE_N128                                                                                    \
  SWIFTPRUNE_N64                                                                                           \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%" \
  "89,%90,"                                                                                                \
  "%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%" \
  "113,"                                                                                                   \
  "%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

// c [64, n] = a·bᵀ (+ c when `add`), 16 columns of a and b; both in shared memory, rows along the sum.
#define SWIFTPRUNE_SHARED(n, count, type, cname, a0, b0, p0)                                          \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" p0                                            \
               ", 0;\n"                                                                               \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " " SWIFTPRUNE_N##count \
               "}, %" a0 ", %" b0 ", add, 1, 1, 0, 0;\n}"                                             \
               : SWIFTPRUNE_C##count(cname, 0)                                                        \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
// c [64, n] += a·b, a 16 columns in registers, b in shared memory, its columns along the rows.
#define SWIFTPRUNE_REGISTERS(n, count, type, cname, a0, a1, a2, a3, b0)                               \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " " SWIFTPRUNE_N##count \
               "}, {%" a0 ",%" a1 ",%" a2 ",%" a3 "}, %" b0 ", 1, 1, 1, 1;"                           \
               : SWIFTPRUNE_C##count(cname, 0)                                                        \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <class T, int kCount>
__device__ __forceinline__ void multiply_shared(float (&c)[kCount], std::uint64_t a, std::uint64_t b,
                                                bool add) {
  static_assert(kCount == 32 || kCount == 64);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kCount == 32 && kHalf) SWIFTPRUNE_SHARED("64", 32, "f16", c, "32", "33", "34");
  if constexpr (kCount == 32 && !kHalf) SWIFTPRUNE_SHARED("64", 32, "bf16", c, "32", "33", "34");
  if constexpr (kCount == 64 && kHalf) SWIFTPRUNE_SHARED("128", 64, "f16", c, "64", "65", "66");
  if constexpr (kCount == 64 && !kHalf) SWIFTPRUNE_SHARED("128", 64, "bf16", c, "64", "65", "66");
}
template <class T, int kCount>
__device__ __forceinline__ void multiply_registers(float (&c)[kCount], const std::uint32_t (&a)[4],
                                                   std::uint64_t b) {
  static_assert(kCount == 32 || kCount == 64 || kCount == 128);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kCount == 32 && kHalf) SWIFTPRUNE_REGISTERS("64", 32, "f16", c, "32", "33", "34", "35", "36");
  if constexpr (kCount == 32 && !kHalf)
    SWIFTPRUNE_REGISTERS("64", 32, "bf16", c, "32", "33", "34", "35", "36");
  if constexpr (kCount == 64 && kHalf)
    SWIFTPRUNE_REGISTERS("128", 64, "f16", c, "64", "65", "66", "67", "68");
  if constexpr (kCount == 64 && !kHalf)
    SWIFTPRUNE_REGISTERS("128", 64, "bf16", c, "64", "65", "66", "67", "68");
  if constexpr (kCount == 128 && kHalf)
    SWIFTPRUNE_REGISTERS("256", 128, "f16", c, "128", "129", "130", "131", "132");
  if constexpr (kCount == 128 && !kHalf)
    SWIFTPRUNE_REGISTERS("256", 128, "bf16", c, "128", "129", "130", "131", "132");
}
#undef SWIFTPRUNE_SHARED
#undef SWIFTPRUNE_REGISTERS
#undef SWIFTPRUNE_N128
#undef SWIFTPRUNE_N64
#undef SWIFTPRUNE_N32
#undef SWIFTPRUNE_C128
#undef SWIFTPRUNE_C64
#undef SWIFTPRUNE_C32
#undef SWIFTPRUNE_C8

}  // namespace swiftprune::cuda
