# Warnings belong to our own targets only; dependencies come in as SYSTEM headers.
add_library(swiftprune_warnings INTERFACE)
target_compile_options(swiftprune_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual>)
if(SWIFTPRUNE_WERROR)
  target_compile_options(swiftprune_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
