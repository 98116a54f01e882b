swiftprune_test(core/sha256)
swiftprune_test(core/run_context)
