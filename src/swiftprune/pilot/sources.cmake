target_sources(swiftprune PRIVATE
  pilot/block_trial.cpp
  pilot/equal_bytes.cpp
  pilot/trial.cpp)
