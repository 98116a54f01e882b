target_sources(swiftprune PRIVATE
  refinement/refine_spec.cpp
  refinement/refiner.cpp
  refinement/layer_error.cpp
  refinement/cholesky.cpp
  refinement/inverse_factor.cpp
  refinement/pcg.cpp
  refinement/low_rank_fit.cpp
  refinement/admm.cpp
  refinement/aligned_admm.cpp
  refinement/swaps.cpp
  refinement/sparsegpt.cpp
  refinement/grid_search.cpp
  refinement/grid_solver.cpp
  refinement/rounding.cpp
  refinement/row_loops_baseline.cpp)
swiftprune_isa_sources(swiftprune
  AVX2 refinement/row_loops_avx2.cpp
  AVX512 refinement/row_loops_avx512.cpp)
set_property(SOURCE refinement/row_loops_baseline.cpp refinement/row_loops_avx2.cpp refinement/row_loops_avx512.cpp
  APPEND PROPERTY COMPILE_OPTIONS -O3 -fno-math-errno -fno-trapping-math)
