target_sources(swiftprune PRIVATE
  core/error.cpp
  core/git_lfs.cpp
  core/read_file.cpp
  core/json.cpp
  core/temporary_folder.cpp
  core/python_json.cpp
  core/named_numbers.cpp
  core/child_process.cpp
  core/own_library.cpp
  core/helper_threads.cpp
  core/parallel.cpp
  core/run_context.cpp
  core/timeline.cpp
  core/cpu_features.cpp
  core/linked_libraries.cpp
  core/sha256.cpp)
# What these libraries do not tell themselves.
set_source_files_properties(core/linked_libraries.cpp TARGET_DIRECTORY swiftprune PROPERTIES COMPILE_DEFINITIONS
  "SWIFTPRUNE_SENTENCEPIECE_VERSION=\"${SENTENCEPIECE_VERSION}\";SWIFTPRUNE_HTTPLIB_VERSION=\"${HTTPLIB_VERSION}\"")
