# Per-ISA source files get their own flags; the choice among them is made at run time (core/cpu_features.h).
# Files for another processor compile to empty function tables; NEON itself needs no flags.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(SWIFTPRUNE_AVX2_FLAGS -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt -mlzcnt)
  set(SWIFTPRUNE_AVX512_FLAGS ${SWIFTPRUNE_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vbmi2
      -mavx512vnni -mprefer-vector-width=512)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12's own AVX-512 header warns about its _mm512_undefined_* (GCC bug 105593).
    list(APPEND SWIFTPRUNE_AVX512_FLAGS -Wno-maybe-uninitialized)
  endif()
  set(SWIFTPRUNE_AVX512BF16_FLAGS ${SWIFTPRUNE_AVX512_FLAGS} -mavx512bf16)
  set(SWIFTPRUNE_TESTED_ISAS baseline avx2 avx512)
  set(SWIFTPRUNE_AMX_FLAGS ${SWIFTPRUNE_AVX512BF16_FLAGS} -mamx-tile -mamx-bf16 -mamx-int8)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(SWIFTPRUNE_NEONDOT_FLAGS -march=armv8.2-a+dotprod)
  set(SWIFTPRUNE_TESTED_ISAS baseline neon neon_dot)
endif()

# swiftprune_isa_sources(<target> AVX2 a.cpp b.cpp AVX512 c.cpp ...): adds the files with the flags of their ISA.
function(swiftprune_isa_sources target)
  cmake_parse_arguments(ARG "" "" "AVX2;AVX512;AVX512BF16;AMX;NEONDOT" ${ARGN})
  foreach(isa AVX2 AVX512 AVX512BF16 AMX NEONDOT)
    foreach(file ${ARG_${isa}})
      target_sources(${target} PRIVATE ${file})
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${SWIFTPRUNE_${isa}_FLAGS}")
    endforeach()
  endforeach()
endfunction()
