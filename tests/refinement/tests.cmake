swiftprune_test(refinement/refiner)
swiftprune_test(refinement/refine_spec)
swiftprune_test(refinement/grid)
swiftprune_test_each_isa(refinement *)
