target_sources(swiftprune PRIVATE
  core/error.cpp
  core/parallel.cpp
  core/progress.cpp
  core/cpu_features.cpp
  core/sha256.cpp)
