target_sources(swiftprune PRIVATE
  pipeline/allocate.cpp
  pipeline/journal.cpp
  pipeline/method.cpp
  pipeline/plan.cpp
  pipeline/prune.cpp
  pipeline/record.cpp
  pipeline/row_budgets.cpp
  pipeline/two_streams.cpp)
