swiftprune_test(structure/block_units)
swiftprune_test(structure/unit_scores)
swiftprune_test(structure/refit)
swiftprune_test(structure/shrink_shape)
