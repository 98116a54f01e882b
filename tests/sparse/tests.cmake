swiftprune_test(sparse/packed_tensor)
swiftprune_test(sparse/pack)
swiftprune_test(sparse/linear)
swiftprune_test(sparse/packed_checkpoint)
# Every instruction set that the processor has, chosen as a user would; the test itself skips the others.
foreach(isa baseline avx2 avx512)
  add_test(NAME sparse/linear_${isa} COMMAND sparse_linear_test)
  set_tests_properties(sparse/linear_${isa} PROPERTIES ENVIRONMENT SWIFTPRUNE_ISA=${isa})
endforeach()
