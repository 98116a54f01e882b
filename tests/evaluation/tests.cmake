swiftprune_test(evaluation/scored_windows)
swiftprune_test(evaluation/perplexity)
swiftprune_test(evaluation/tasks)
