target_sources(swiftprune PRIVATE
  tensor/dtype.cpp
  tensor/dtype_kernels_neon.cpp
  tensor/growing_matrix.cpp
  tensor/large_buffer.cpp
  tensor/matrix.cpp
  tensor/mask.cpp
  tensor/quantized_weight.cpp)
swiftprune_isa_sources(swiftprune
  AVX2 tensor/dtype_kernels_avx2.cpp
  AVX512 tensor/dtype_kernels_avx512.cpp)
