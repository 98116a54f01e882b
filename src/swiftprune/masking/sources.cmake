target_sources(swiftprune PRIVATE
  masking/apply_mask.cpp)
