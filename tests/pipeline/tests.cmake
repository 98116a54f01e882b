swiftprune_test(pipeline/plan)
swiftprune_test(pipeline/prune)
swiftprune_test(pipeline/aligned_prune)
swiftprune_test(pipeline/allocate)
