# CUDA is used when nvcc is there: device code for named architectures, everything else compiled by the host
# compiler. The runtime is linked statically and cuBLASLt is opened when it is first needed, so one program starts
# on machines without a driver.
find_program(SWIFTPRUNE_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda/bin PATH_SUFFIXES bin)
if(SWIFTPRUNE_NVCC)
  option(SWIFTPRUNE_CUDA "Build the CUDA path" ON)
else()
  option(SWIFTPRUNE_CUDA "Build the CUDA path" OFF)
endif()
set(SWIFTPRUNE_CUDA_ARCHITECTURES all CACHE STRING
  "GPU architectures: numbers for machine code, ptxNN for what newer GPUs compile themselves; all; or native, this machine's")

# swiftprune_gpu_architectures(<variable>): SWIFTPRUNE_CUDA_ARCHITECTURES with the names all and native resolved.
function(swiftprune_gpu_architectures result)
  set(all 80 90a 100 ptx80)
  set(architectures ${SWIFTPRUNE_CUDA_ARCHITECTURES})
  if(architectures STREQUAL "native")
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE status)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${found}")
    list(REMOVE_DUPLICATES found)
    list(TRANSFORM found REPLACE "\\." "")
    list(TRANSFORM found REPLACE "^90$" "90a")  # wgmma and TMA exist in 90a alone
    set(architectures ${found})
    if(NOT status EQUAL 0 OR NOT found)
      message(STATUS "SWIFTPRUNE_CUDA_ARCHITECTURES=native: nvidia-smi tells no GPU, so all are built: ${all}")
      set(architectures ${all})
    endif()
  elseif(architectures STREQUAL "all")
    set(architectures ${all})
  endif()
  message(STATUS "GPU code for: ${architectures}")
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()

if(SWIFTPRUNE_CUDA)
  if(NOT SWIFTPRUNE_NVCC)
    message(FATAL_ERROR "SWIFTPRUNE_CUDA=ON, but nvcc was not found; name it with CUDACXX, or take the preset cpu")
  endif()
  # CMake 3.25 knows neither nvcc's C++20 flag nor architecture names such as 90a.
  set(CMAKE_CUDA_COMPILER ${SWIFTPRUNE_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  find_package(CUDAToolkit REQUIRED)
  # Optional: 2:4 products of many tokens. The wheel nvidia-cusparselt-cu13 holds header and library.
  find_path(SWIFTPRUNE_CUSPARSELT_INCLUDE_DIR cusparseLt.h HINTS ENV CUSPARSELT_PATH ${CUDAToolkit_INCLUDE_DIRS}
    PATH_SUFFIXES include)
  swiftprune_gpu_architectures(architectures)
  foreach(architecture ${architectures})
    if(architecture MATCHES "^ptx([0-9]+a?)$")
      list(APPEND gencode "-gencode=arch=compute_${CMAKE_MATCH_1},code=compute_${CMAKE_MATCH_1}")
    else()
      list(APPEND gencode "-gencode=arch=compute_${architecture},code=sm_${architecture}")
    endif()
  endforeach()
  add_library(swiftprune_cuda_flags INTERFACE)
  target_compile_options(swiftprune_cuda_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:${gencode};-std=c++20;-Xcompiler=-Wall>)
  if(SWIFTPRUNE_WERROR)
    target_compile_options(swiftprune_cuda_flags INTERFACE
      "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings -Xcompiler=-Werror>")
  endif()
endif()
