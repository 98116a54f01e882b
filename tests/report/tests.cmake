swiftprune_test(report/inspect)
swiftprune_test(report/svg)
swiftprune_test(report/verify)
swiftprune_test(report/comparison)
