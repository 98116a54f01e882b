target_sources(swiftprune PRIVATE
  tune/decode_times.cpp
  tune/level_choice.cpp
  tune/level_search.cpp
  tune/level_store.cpp
  tune/method_parameters.cpp
  tune/parameter_trials.cpp
  tune/plan_search.cpp
  tune/tune.cpp
  tune/tune_report.cpp
  tune/unit_tune.cpp
  tune/width_store.cpp)
