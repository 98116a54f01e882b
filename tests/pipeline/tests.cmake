swiftprune_test(pipeline/plan)
swiftprune_test(pipeline/prune)
