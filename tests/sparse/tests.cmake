swiftprune_test(sparse/packed_tensor)
swiftprune_test(sparse/pack)
swiftprune_test(sparse/linear)
swiftprune_test(sparse/autotune)
swiftprune_test(sparse/packed_checkpoint)
swiftprune_test_each_isa(sparse LinearTest.*)
# Checksums of damaged files are made right again.
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
target_link_libraries(sparse_tests PRIVATE PkgConfig::XXHASH)
