if(SWIFTPRUNE_CUDA)
  target_sources(swiftprune PRIVATE
    cuda/device.cpp
    cuda/runtime.cpp
    cuda/products.cpp
    cuda/groups.cu
    cuda/rows.cu
    cuda/layer_select.cu
    cuda/invert_block.cu
    cuda/pcg.cu
    cuda/columns.cu
    cuda/swaps.cu
    cuda/sparsegpt.cu
    cuda/statistics.cu
    cuda/block_ops.cu
    cuda/attention.cu
    cuda/attention_hopper.cu
    cuda/refine.cu
    cuda/packed.cu
    cuda/packed_expand.cu
    cuda/generation.cu
    cuda/generator.cpp
    cuda/resident.cpp
    cuda/tuning.cpp
    cuda/head.cpp
    cuda/packed_weight.cpp
    cuda/block.cpp
    cuda/streaming.cpp
    cuda/inverse.cpp
    cuda/admm.cpp
    cuda/calibration.cpp
    cuda/streams.cpp
    cuda/damped_factor.cpp
    cuda/matrix_select.cpp
    cuda/refiner.cpp
    cuda/selector.cpp
    cuda/row_effects.cpp
    cuda/sensitivities.cpp
    cuda/linear_pruner.cpp
    cuda/prune.cpp
    cuda/column_fit.cpp
    cuda/unit_scores.cpp
    cuda/shrink.cpp
    cuda/trial_streams.cpp
    cuda/perplexity.cpp)
  if(SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR)
    target_sources(swiftprune PRIVATE cuda/structured.cpp)
    set_property(SOURCE cuda/structured.cpp APPEND PROPERTY COMPILE_OPTIONS
      -isystem${SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR})
  else()
    target_sources(swiftprune PRIVATE cuda/structured_unavailable.cpp)
  endif()
  target_link_libraries(swiftprune PRIVATE CUDA::cudart_static swiftprune_cuda_flags ${CMAKE_DL_LIBS})
  target_compile_definitions(swiftprune PRIVATE SWIFTPRUNE_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
else()
  target_sources(swiftprune PRIVATE cuda/unavailable.cpp)
endif()
