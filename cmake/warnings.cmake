# Warnings belong to our own targets only; dependencies come in as SYSTEM headers.
add_library(swiftprune_warnings INTERFACE)
target_compile_options(swiftprune_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual>)
# g++ 12 reports std::string concatenation by mistake (GCC bug 105329), in two ways.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(swiftprune_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict;-Wno-stringop-overflow>)
endif()
if(SWIFTPRUNE_WERROR)
  target_compile_options(swiftprune_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
