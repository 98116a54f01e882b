swiftprune_test(core/sha256)
