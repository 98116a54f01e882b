target_sources(swiftprune PRIVATE
  scoring/scores.cpp)
