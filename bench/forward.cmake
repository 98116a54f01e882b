swiftprune_bench(forward_bench)
target_link_libraries(forward_bench PRIVATE CLI11::CLI11 ${DNNL_LIBRARY})
target_include_directories(forward_bench SYSTEM PRIVATE ${DNNL_INCLUDE_DIR})
