if(SWIFTPRUNE_CUDA)
  foreach(unit selection arithmetic attention packed packed_order tuning refinement layer_selection hessian_refinement allocation
               shrink pipeline golden generation mixers experts packed_experts packed_expert_models
               prune_experts ranks)
    swiftprune_test(cuda/${unit})
  endforeach()
  target_link_libraries(cuda_tests PRIVATE swiftprune_cuda_objects)
  set_target_properties(cuda_tests PROPERTIES ENABLE_EXPORTS ON)  # device/cuda_library.cpp finds the code here
endif()
