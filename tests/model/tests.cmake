swiftprune_test(model/family)
swiftprune_test(model/config)
swiftprune_test(model/rope)
swiftprune_test(model/sampler)
