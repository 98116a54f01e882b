target_sources(swiftprune PRIVATE
  api/option_values.cpp
  api/calibration_text.cpp
  api/compare_job.cpp
  api/eval_job.cpp
  api/job_options.cpp
  api/pilot_job.cpp
  api/prune_job.cpp
  api/prune_prepare.cpp
  api/prune_resume.cpp
  api/resume.cpp
  api/shrink_expert_channels.cpp
  api/shrink_experts.cpp
  api/shrink_job.cpp
  api/shrink_units.cpp
  api/text_generator.cpp
  api/text_writer.cpp
  api/texts.cpp)
