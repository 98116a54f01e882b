# Most of a small file's compile time is headers and templates of other libraries: files that lie together, and whose names
# in anonymous namespaces differ, are compiled as one. That halves a build from nothing; the preset tidy looks at each
# file alone.
# swiftprune_together(<target> <name> <pattern> [SIZE <n>] [ALONE <file>...]): the target's files that match the pattern, up
# to n (12) at a time, but for those that have names of others.
function(swiftprune_together target name pattern)
  cmake_parse_arguments(ARG "" SIZE ALONE ${ARGN})
  if(NOT ARG_SIZE)
    set(ARG_SIZE 12)
  endif()
  if(NOT SWIFTPRUNE_TOGETHER)
    return()
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX ${pattern})
  set(count 0)
  foreach(file IN LISTS sources)
    get_source_file_property(definitions ${file} COMPILE_DEFINITIONS)
    get_source_file_property(options ${file} COMPILE_OPTIONS)
    if(definitions OR options OR file IN_LIST ARG_ALONE)  # flags of its own
      continue()
    endif()
    math(EXPR part "${count} / ${ARG_SIZE}")
    math(EXPR count "${count} + 1")
    set_source_files_properties(${file} PROPERTIES UNITY_GROUP ${name}_${part})
  endforeach()
endfunction()
