swiftprune_test(scoring/scorer)
