swiftprune_test(tensor/dtype)
swiftprune_test(tensor/mask)
swiftprune_test(tensor/quantized_weight)
