swiftprune_test(tensor/dtype)
swiftprune_test(tensor/mask)
