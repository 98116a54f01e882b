target_sources(swiftprune PRIVATE
  report/block_linears.cpp
  report/inspect.cpp
  report/prune_record.cpp
  report/verify.cpp)
