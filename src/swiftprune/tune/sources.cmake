target_sources(swiftprune PRIVATE
  tune/level_search.cpp
  tune/level_store.cpp
  tune/tune.cpp
  tune/tune_report.cpp)
