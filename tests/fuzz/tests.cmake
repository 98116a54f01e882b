# Every fuzzer's function on its seeds, on seeds that are cut or changed, and on what was found once.
swiftprune_test(fuzz/replay)
target_link_libraries(fuzz_tests PRIVATE fuzz_seeds fuzz_targets)
