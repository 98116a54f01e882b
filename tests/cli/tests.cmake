# The program itself, as a user runs it.
swiftprune_test(cli/program)
target_compile_definitions(cli_program_test PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
add_dependencies(cli_program_test swiftprune_cli)
swiftprune_test(cli/evaluation)
target_compile_definitions(cli_evaluation_test PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
add_dependencies(cli_evaluation_test swiftprune_cli)
