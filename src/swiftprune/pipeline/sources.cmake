target_sources(swiftprune PRIVATE
  pipeline/method.cpp
  pipeline/plan.cpp
  pipeline/prune.cpp)
