swiftprune_bench(dump_logits)
target_link_libraries(dump_logits PRIVATE CLI11::CLI11)
