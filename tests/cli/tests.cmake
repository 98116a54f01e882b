# The program itself, as a user runs it.
swiftprune_test(cli/program)
target_compile_definitions(cli_program_test PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
add_dependencies(cli_program_test swiftprune_cli)
swiftprune_test(cli/evaluation)
target_compile_definitions(cli_evaluation_test PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
add_dependencies(cli_evaluation_test swiftprune_cli)
# The commands' own parsers.
swiftprune_test(cli/option_echo)
target_link_libraries(cli_option_echo_test PRIVATE swiftprune_commands)
# Faults and interrupts; printed commands.
foreach(unit interrupt repeat)
  swiftprune_test(cli/${unit})
  target_compile_definitions(cli_${unit}_test PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
  add_dependencies(cli_${unit}_test swiftprune_cli)
endforeach()
