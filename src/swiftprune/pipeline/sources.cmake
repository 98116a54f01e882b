target_sources(swiftprune PRIVATE
  pipeline/choices/allocate.cpp
  pipeline/checkpoint_output.cpp
  pipeline/decode_time.cpp
  pipeline/journal.cpp
  pipeline/choices/layer_choice.cpp
  pipeline/method.cpp
  pipeline/streams/one_stream.cpp
  pipeline/plan.cpp
  pipeline/drivers/prune.cpp
  pipeline/record.cpp
  pipeline/choices/row_budgets.cpp
  pipeline/choices/shape_choice.cpp
  pipeline/choices/width_choice.cpp
  pipeline/drivers/shrink.cpp
  pipeline/shrunk_checkpoint.cpp
  pipeline/streams/trial_streams.cpp
  pipeline/streams/two_streams.cpp)
