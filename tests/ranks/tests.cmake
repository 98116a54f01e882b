swiftprune_test(ranks/launched)
swiftprune_test(ranks/communicator)
