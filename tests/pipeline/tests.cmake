swiftprune_test(pipeline/aligned_prune)
swiftprune_test(pipeline/allocate)
