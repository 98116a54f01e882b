swiftprune_bench(selection_bench)
target_link_libraries(selection_bench PRIVATE CLI11::CLI11)
