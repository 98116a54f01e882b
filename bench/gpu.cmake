if(SWIFTPRUNE_CUDA)
  swiftprune_bench(gpu_bench)
  target_link_libraries(gpu_bench PRIVATE CLI11::CLI11 CUDA::cudart_static)
endif()
