if(SWIFTPRUNE_CUDA)
  foreach(unit selection arithmetic attention packed tuning refinement layer_selection hessian_refinement allocation
               shrink pipeline golden generation)
    swiftprune_test(cuda/${unit})
  endforeach()
  target_link_libraries(cuda_tests PRIVATE CUDA::cudart_static)
endif()
