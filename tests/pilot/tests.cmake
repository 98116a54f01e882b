swiftprune_test(pilot/pilot)
swiftprune_test(pilot/equal_bytes)
