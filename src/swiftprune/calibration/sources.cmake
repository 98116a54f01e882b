target_sources(swiftprune PRIVATE
  calibration/activation_stats.cpp
  calibration/self_text.cpp
  calibration/stats_part.cpp
  calibration/stopping.cpp)
