target_sources(swiftprune PRIVATE cuda/capabilities.cpp)
# GPU code is a library of its own (device/cuda_library.h). Its objects are what tests and benchmarks link, which
# call kernels and CUDA's runtime beside them: with one copy of both in the program.
if(SWIFTPRUNE_CUDA)
  add_library(swiftprune_cuda_objects OBJECT
    cuda/library.cpp
    cuda/device.cpp
    cuda/ranks/nccl_library.cpp
    cuda/ranks/nccl_ranks.cpp
    cuda/runtime/runtime.cpp
    cuda/runtime/stream_spans.cpp
    cuda/runtime/products.cpp
    cuda/selection/groups.cu
    cuda/selection/rows.cu
    cuda/selection/layer_select.cu
    cuda/refinement/invert_block.cu
    cuda/refinement/pcg.cu
    cuda/structure/columns.cu
    cuda/structure/expert_rows.cu
    cuda/refinement/swaps.cu
    cuda/refinement/sparsegpt.cu
    cuda/refinement/grid.cu
    cuda/refinement/grid_descent.cu
    cuda/statistics/statistics.cu
    cuda/forward/block_ops.cu
    cuda/forward/experts.cu
    cuda/forward/experts.cpp
    cuda/forward/packed_experts.cu
    cuda/forward/attention.cu
    cuda/forward/attention_hopper.cu
    cuda/forward/attention_wide.cu
    cuda/forward/mixers.cu
    cuda/forward/layer_inputs.cu
    cuda/forward/block_adapter.cpp
    cuda/forward/layer_inputs.cpp
    cuda/refinement/refine.cu
    cuda/sparse/packed.cu
    cuda/sparse/packed_grid.cu
    cuda/sparse/packed_grid_two_four.cu
    cuda/sparse/entries.cu
    cuda/sparse/entry_buffers.cpp
    cuda/sparse/few_tokens.cu
    cuda/sparse/packed_expand.cu
    cuda/forward/generation.cu
    cuda/forward/generator.cpp
    cuda/forward/lane_cache.cpp
    cuda/forward/resident.cpp
    cuda/sparse/tuning.cpp
    cuda/forward/head.cpp
    cuda/sparse/packed_weight.cpp
    cuda/sparse/packed_piece.cpp
    cuda/sparse/expert_stack.cpp
    cuda/sparse/packed_order.cpp
    cuda/sparse/packed_product.cpp
    cuda/forward/block_weights.cpp
    cuda/forward/block_experts.cpp
    cuda/forward/block.cpp
    cuda/forward/block_attention.cpp
    cuda/forward/mixer.cpp
    cuda/forward/streaming.cpp
    cuda/refinement/inverse.cpp
    cuda/refinement/grid_solver.cpp
    cuda/refinement/admm.cpp
    cuda/statistics/calibration.cpp
    cuda/pipeline/stream_ops.cpp
    cuda/pipeline/output_errors.cpp
    cuda/refinement/damped_factor.cpp
    cuda/selection/matrix_select.cpp
    cuda/refinement/refiner.cpp
    cuda/selection/selector.cpp
    cuda/pipeline/row_effects.cpp
    cuda/pipeline/probe_shop.cpp
    cuda/pipeline/prune_shop.cpp
    cuda/pipeline/input_statistics.cpp
    cuda/pipeline/linears_in_hand.cpp
    cuda/pipeline/held_expert.cpp
    cuda/structure/column_fit.cpp
    cuda/structure/unit_scores.cpp
    cuda/pipeline/shrink_shop.cpp
    cuda/pipeline/expert_shop.cpp
    cuda/pipeline/trial_streams.cpp
    cuda/forward/scores.cu
    cuda/forward/block_stream.cpp
    cuda/forward/text_forwards.cpp
    cuda/forward/paired_blocks.cpp
    cuda/statistics/input_energies.cpp)
  if(SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR)
    target_sources(swiftprune_cuda_objects PRIVATE cuda/sparse/structured.cpp)
    set_property(SOURCE cuda/sparse/structured.cpp APPEND PROPERTY COMPILE_OPTIONS
      -isystem${SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR})
  else()
    target_sources(swiftprune_cuda_objects PRIVATE cuda/sparse/structured_unavailable.cpp)
  endif()
  target_link_libraries(swiftprune_cuda_objects
    PUBLIC swiftprune CUDA::cudart_static ${CMAKE_DL_LIBS}
    PRIVATE swiftprune_warnings swiftprune_cuda_flags)
  target_compile_definitions(swiftprune_cuda_objects PRIVATE SWIFTPRUNE_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
  swiftprune_shared_objects(swiftprune_cuda_objects)
  swiftprune_precompile(swiftprune_cuda_objects)
  add_library(swiftprune_cuda SHARED $<TARGET_OBJECTS:swiftprune_cuda_objects>)
  target_link_libraries(swiftprune_cuda PRIVATE swiftprune CUDA::cudart_static ${CMAKE_DL_LIBS})
  swiftprune_shared_library(swiftprune_cuda)
else()
  # None that an earlier build with CUDA left beside this program.
  file(REMOVE ${PROJECT_BINARY_DIR}/libswiftprune_cuda.so)
endif()
