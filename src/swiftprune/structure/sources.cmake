target_sources(swiftprune PRIVATE
  structure/block_units.cpp
  structure/unit_scores.cpp
  structure/expert_scores.cpp
  structure/expert_bias.cpp
  structure/refit.cpp
  structure/shrink_shape.cpp)
