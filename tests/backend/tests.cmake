swiftprune_test(backend/backend)
swiftprune_test(backend/rounded_gram)
add_test(NAME backend/rounded_gram.avx2 COMMAND backend_rounded_gram_test)
set_tests_properties(backend/rounded_gram.avx2 PROPERTIES ENVIRONMENT SWIFTPRUNE_ISA=avx2)
# The same test body on each instruction set that the processor has (a missing one is skipped by exit code 77).
foreach(isa baseline avx2 avx512)
  add_test(NAME backend/backend.${isa} COMMAND backend_backend_test)
  set_tests_properties(backend/backend.${isa} PROPERTIES ENVIRONMENT SWIFTPRUNE_ISA=${isa} SKIP_RETURN_CODE 77)
endforeach()
