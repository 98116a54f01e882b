target_sources(swiftprune PRIVATE
  pipeline/allocate.cpp
  pipeline/method.cpp
  pipeline/plan.cpp
  pipeline/prune.cpp
  pipeline/record.cpp
  pipeline/two_streams.cpp)
