target_sources(swiftprune PRIVATE
  api/calibration_text.cpp
  api/compare_job.cpp
  api/eval_job.cpp
  api/prune_job.cpp
  api/prune_prepare.cpp
  api/prune_resume.cpp
  api/resume.cpp
  api/text_writer.cpp
  api/texts.cpp)
