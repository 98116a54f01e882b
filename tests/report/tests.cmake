swiftprune_test(report/inspect)
swiftprune_test(report/verify)
