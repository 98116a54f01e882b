if(SWIFTPRUNE_CUDA)
  target_sources(swiftprune PRIVATE
    cuda/device.cpp
    cuda/runtime/runtime.cpp
    cuda/runtime/products.cpp
    cuda/selection/groups.cu
    cuda/selection/rows.cu
    cuda/selection/layer_select.cu
    cuda/refinement/invert_block.cu
    cuda/refinement/pcg.cu
    cuda/structure/columns.cu
    cuda/refinement/swaps.cu
    cuda/refinement/sparsegpt.cu
    cuda/statistics/statistics.cu
    cuda/forward/block_ops.cu
    cuda/forward/attention.cu
    cuda/forward/attention_hopper.cu
    cuda/refinement/refine.cu
    cuda/sparse/packed.cu
    cuda/sparse/packed_expand.cu
    cuda/forward/generation.cu
    cuda/forward/generator.cpp
    cuda/forward/resident.cpp
    cuda/sparse/tuning.cpp
    cuda/forward/head.cpp
    cuda/sparse/packed_weight.cpp
    cuda/forward/block.cpp
    cuda/forward/streaming.cpp
    cuda/refinement/inverse.cpp
    cuda/refinement/admm.cpp
    cuda/statistics/calibration.cpp
    cuda/pipeline/streams.cpp
    cuda/refinement/damped_factor.cpp
    cuda/selection/matrix_select.cpp
    cuda/refinement/refiner.cpp
    cuda/selection/selector.cpp
    cuda/pipeline/row_effects.cpp
    cuda/pipeline/sensitivities.cpp
    cuda/pipeline/linear_pruner.cpp
    cuda/pipeline/prune.cpp
    cuda/structure/column_fit.cpp
    cuda/structure/unit_scores.cpp
    cuda/pipeline/shrink.cpp
    cuda/pipeline/trial_streams.cpp
    cuda/forward/scores.cu
    cuda/forward/block_stream.cpp
    cuda/forward/text_forwards.cpp
    cuda/forward/paired_blocks.cpp
    cuda/statistics/input_energies.cpp)
  if(SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR)
    target_sources(swiftprune PRIVATE cuda/sparse/structured.cpp)
    set_property(SOURCE cuda/sparse/structured.cpp APPEND PROPERTY COMPILE_OPTIONS
      -isystem${SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR})
  else()
    target_sources(swiftprune PRIVATE cuda/sparse/structured_unavailable.cpp)
  endif()
  target_link_libraries(swiftprune PRIVATE CUDA::cudart_static swiftprune_cuda_flags ${CMAKE_DL_LIBS})
  target_compile_definitions(swiftprune PRIVATE SWIFTPRUNE_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
else()
  target_sources(swiftprune PRIVATE cuda/unavailable.cpp)
endif()
