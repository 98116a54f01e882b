swiftprune_bench(prune_bench)
target_link_libraries(prune_bench PRIVATE CLI11::CLI11)
