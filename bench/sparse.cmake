swiftprune_bench(sparse_bench)
target_link_libraries(sparse_bench PRIVATE CLI11::CLI11 ${DNNL_LIBRARY})
target_include_directories(sparse_bench SYSTEM PRIVATE ${DNNL_INCLUDE_DIR})
