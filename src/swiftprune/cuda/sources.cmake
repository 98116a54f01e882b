if(SWIFTPRUNE_CUDA)
  target_sources(swiftprune PRIVATE
    cuda/device.cpp
    cuda/runtime.cpp
    cuda/products.cpp
    cuda/groups.cu
    cuda/rows.cu
    cuda/statistics.cu
    cuda/block_ops.cu
    cuda/attention.cu
    cuda/refine.cu
    cuda/block.cpp
    cuda/streaming.cpp
    cuda/inverse.cpp
    cuda/admm.cpp
    cuda/calibration.cpp
    cuda/streams.cpp
    cuda/prune.cpp
    cuda/perplexity.cpp)
  target_link_libraries(swiftprune PRIVATE CUDA::cudart_static swiftprune_cuda_flags ${CMAKE_DL_LIBS})
  target_compile_definitions(swiftprune PRIVATE SWIFTPRUNE_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
else()
  target_sources(swiftprune PRIVATE cuda/unavailable.cpp)
endif()
