swiftprune_test(tensor/dtype)
