target_sources(swiftprune PRIVATE
  backend/backend.cpp
  backend/damped_inverse.cpp
  backend/reference/reference_backend.cpp
  backend/cpu/kernels_baseline.cpp
  backend/cpu/products.cpp
  backend/cpu/bf16.cpp
  backend/cpu/bf16_linear.cpp
  backend/cpu/bf16_products.cpp
  backend/cpu/attention.cpp
  backend/cpu/cpu_backend.cpp)
swiftprune_isa_sources(swiftprune
  AVX2 backend/cpu/kernels_avx2.cpp
  AVX512 backend/cpu/kernels_avx512.cpp)
set_property(SOURCE backend/cpu/kernels_baseline.cpp backend/cpu/kernels_avx2.cpp backend/cpu/kernels_avx512.cpp
  APPEND PROPERTY COMPILE_OPTIONS -O3 -fno-math-errno -fno-trapping-math)
