swiftprune_test(pilot/pilot)
