swiftprune_test(refinement/refiner)
swiftprune_test_each_isa(refinement *)
