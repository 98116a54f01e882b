# The program itself, as a user runs it.
swiftprune_test(cli/program)
swiftprune_test(cli/evaluation)
target_compile_definitions(cli_tests PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
add_dependencies(cli_tests swiftprune_cli)
