swiftprune_test(tune/level_search)
swiftprune_test(tune/tune)
