swiftprune_test(tune/level_search)
swiftprune_test(tune/method_parameters)
swiftprune_test(tune/tune)
swiftprune_test(tune/unit_tune)
