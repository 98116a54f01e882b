swiftprune_test(refinement/refiner)
swiftprune_test(refinement/refine_spec)
# The same tests on each instruction set that the processor has.
foreach(isa baseline avx2 avx512)
  add_test(NAME refinement/refiner.${isa} COMMAND refinement_refiner_test)
  set_tests_properties(refinement/refiner.${isa} PROPERTIES ENVIRONMENT SWIFTPRUNE_ISA=${isa} SKIP_RETURN_CODE 77)
endforeach()
