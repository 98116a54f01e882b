# Half of a file's compile time is other libraries' headers: JSON 1.5 s, GoogleMock 2 s. They are parsed once a target.
# Every file still includes what it uses: the preset tidy is without this.
# swiftprune_precompile(<target> [more headers]): call it behind the target's sources.
function(swiftprune_precompile target)
  if(NOT SWIFTPRUNE_PRECOMPILE)
    return()
  endif()
  target_precompile_headers(${target} PRIVATE <filesystem> <functional> <map> <memory> <optional> <random> <span> <string>
    <vector> <fmt/format.h> <nlohmann/json.hpp> ${ARGN})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)  # for ccache
  endif()
  # Files with flags of their own cannot read what was compiled without them.
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    get_source_file_property(options ${source} COMPILE_OPTIONS)
    if(options)
      set_source_files_properties(${source} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
endfunction()
