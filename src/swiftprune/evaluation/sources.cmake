target_sources(swiftprune PRIVATE
  evaluation/perplexity.cpp
  evaluation/speed.cpp)
