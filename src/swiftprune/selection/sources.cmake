target_sources(swiftprune PRIVATE
  selection/pattern.cpp
  selection/channel_order.cpp
  selection/scored_rows.cpp
  selection/threshold_search.cpp
  selection/exact_selector.cpp
  selection/sort_selector.cpp
  selection/ewma_selector.cpp
  selection/selector.cpp
  selection/row_kernels_baseline.cpp)
swiftprune_isa_sources(swiftprune
  AVX2 selection/row_kernels_avx2.cpp
  AVX512 selection/row_kernels_avx512.cpp)
