swiftprune_test(tensor/dtype)
swiftprune_test(tensor/growing_matrix)
swiftprune_test(tensor/mask)
swiftprune_test(tensor/quantized_weight)
