target_sources(swiftprune PRIVATE
  evaluation/scored_windows.cpp
  evaluation/evaluation_text.cpp
  evaluation/window_runs.cpp
  evaluation/perplexity.cpp
  evaluation/continuations.cpp
  evaluation/task_formats.cpp
  evaluation/tasks.cpp
  evaluation/divergence.cpp
  evaluation/block_errors.cpp
  evaluation/generation_drift.cpp
  evaluation/speed.cpp)
