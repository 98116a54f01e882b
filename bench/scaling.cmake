swiftprune_bench(scaling_bench)
target_link_libraries(scaling_bench PRIVATE CLI11::CLI11)
