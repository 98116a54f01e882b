swiftprune_test(core/sha256)
swiftprune_test(core/run_context)
swiftprune_test(core/parallel)
swiftprune_test(core/checked_math)
