swiftprune_test(scoring/scorer)
swiftprune_test(scoring/score_spec)
