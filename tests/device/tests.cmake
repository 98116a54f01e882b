swiftprune_test(device/open_device)
swiftprune_test(device/cuda_library)
add_library(other_cuda_library MODULE device/other_library.cpp)
target_compile_definitions(other_cuda_library PRIVATE OTHER_VERSION="0.0.7")
add_library(empty_cuda_library MODULE device/other_library.cpp)
target_compile_definitions(empty_cuda_library PRIVATE OTHER_VERSION="${PROJECT_VERSION}")
target_compile_definitions(device_tests PRIVATE OTHER_LIBRARY="$<TARGET_FILE:other_cuda_library>"
  EMPTY_LIBRARY="$<TARGET_FILE:empty_cuda_library>")
add_dependencies(device_tests other_cuda_library empty_cuda_library)
