target_sources(swiftprune PRIVATE
  sparse/packed_tensor.cpp
  sparse/packed_checks.cpp
  sparse/pack.cpp
  sparse/pack_quantized.cpp
  sparse/grid_codes.cpp
  sparse/unpack.cpp
  sparse/linear.cpp
  sparse/reference_linear.cpp
  sparse/kernels_baseline.cpp
  sparse/kernels_neon.cpp
  sparse/grid_neon.cpp
  sparse/shuffle_tables.cpp
  sparse/read_ceiling.cpp
  sparse/weight_parts.cpp
  sparse/packed_checkpoint.cpp
  sparse/autotune.cpp
  sparse/timings.cpp)
swiftprune_isa_sources(swiftprune
  AVX2 sparse/kernels_avx2.cpp sparse/tiles_avx2.cpp sparse/grid_avx2.cpp
  AVX512 sparse/kernels_avx512.cpp sparse/tiles_avx512.cpp sparse/grid_avx512.cpp
  AVX512BF16 sparse/gemm_avx512bf16.cpp
  NEONDOT sparse/grid_neon_dot.cpp)
find_package(PkgConfig REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
target_link_libraries(swiftprune PRIVATE PkgConfig::XXHASH)
