target_sources(swiftprune PRIVATE
  pilot/equal_bytes.cpp
  pilot/pilot.cpp
  pilot/trial.cpp)
