swiftprune_test(selection/pattern)
swiftprune_test(selection/row_kernels)
swiftprune_test(selection/selector)
swiftprune_test(selection/ewma_selector)
