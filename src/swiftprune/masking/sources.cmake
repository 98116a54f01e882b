target_sources(swiftprune PRIVATE
  masking/apply_mask.cpp
  masking/zero_scan.cpp)
