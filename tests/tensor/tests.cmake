swiftprune_test(tensor/mask)
