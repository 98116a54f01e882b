target_sources(swiftprune PRIVATE
  pilot/pilot.cpp)
