target_sources(swiftprune PRIVATE
  pipeline/allocate.cpp
  pipeline/checkpoint_output.cpp
  pipeline/decode_time.cpp
  pipeline/journal.cpp
  pipeline/layer_choice.cpp
  pipeline/method.cpp
  pipeline/one_stream.cpp
  pipeline/plan.cpp
  pipeline/prune.cpp
  pipeline/record.cpp
  pipeline/row_budgets.cpp
  pipeline/shape_choice.cpp
  pipeline/width_choice.cpp
  pipeline/shrink.cpp
  pipeline/shrunk_checkpoint.cpp
  pipeline/trial_streams.cpp
  pipeline/two_streams.cpp)
