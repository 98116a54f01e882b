# Most of a small file's compile time is headers and templates of other libraries: files that lie together, and whose names
# in anonymous namespaces differ, are compiled as one. That halves a build from nothing; the presets asan, tidy and fuzz
# look at each file alone.
# swiftprune_together(<target> <name> <pattern>): the target's files that match the pattern, up to 12 at a time.
function(swiftprune_together target name pattern)
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
    if(definitions OR options)  # its own: it stays alone
      continue()
    endif()
    math(EXPR part "${count} / 12")
    math(EXPR count "${count} + 1")
    set_source_files_properties(${file} PROPERTIES UNITY_GROUP ${name}_${part})
  endforeach()
endfunction()
