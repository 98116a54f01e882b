target_sources(swiftprune PRIVATE
  evaluation/perplexity.cpp)
