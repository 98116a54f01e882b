swiftprune_test(backend/backend)
swiftprune_test_each_isa(backend *)
