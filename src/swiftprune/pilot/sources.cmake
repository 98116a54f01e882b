target_sources(swiftprune PRIVATE
  pilot/block_trial.cpp
  pilot/pilot.cpp)
