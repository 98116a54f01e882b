if(SWIFTPRUNE_CUDA)
  foreach(unit selection arithmetic attention packed tuning refinement layer_selection hessian_refinement allocation
               shrink pipeline generation)
    swiftprune_test(cuda/${unit})
    target_link_libraries(cuda_${unit}_test PRIVATE CUDA::cudart_static)
  endforeach()
endif()
