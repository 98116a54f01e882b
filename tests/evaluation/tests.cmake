swiftprune_test(evaluation/speed)
