# Installs the build into a folder, builds examples/ against it, and runs them on a fixture.
#   cmake -DBUILD=build/ci -DSOURCE=. -DCOMPILER=g++ -DMODEL=DIR -DWORK=DIR -P tests/installed_examples.cmake
file(REMOVE_RECURSE ${WORK})
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${WORK}/build -G Ninja -DCMAKE_PREFIX_PATH=${WORK}/prefix
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Debug)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/prune ${MODEL} ${WORK}/pruned)
run(${WORK}/prefix/bin/swiftprune inspect ${WORK}/pruned)
run(${WORK}/build/write ${WORK}/pruned "The quick" "A second text")
file(GLOB_RECURSE pages ${WORK}/prefix/share/man/man1/swiftprune-*.1.gz)
file(GLOB_RECURSE completions ${WORK}/prefix/share/*/swiftprune ${WORK}/prefix/share/*/_swiftprune
  ${WORK}/prefix/share/*/swiftprune.fish)
list(LENGTH pages num_pages)
list(LENGTH completions num_completions)
if(num_pages LESS 15 OR NOT num_completions EQUAL 3)
  message(FATAL_ERROR "found ${num_pages} manual pages and ${num_completions} completions")
endif()
