# The program itself, as a user runs it; its faults and interrupts; printed commands run again.
swiftprune_test(cli/program)
swiftprune_test(cli/evaluation)
swiftprune_test(cli/interrupt)
swiftprune_test(cli/repeat)
# The commands' own parsers.
swiftprune_test(cli/option_echo)
swiftprune_test(cli/shell_files)
swiftprune_test(cli/progress)
swiftprune_test(cli/waiting)
swiftprune_test(cli/host)
target_compile_definitions(cli_tests PRIVATE SWIFTPRUNE_PROGRAM="$<TARGET_FILE:swiftprune_cli>")
target_link_libraries(cli_tests PRIVATE swiftprune_commands)
add_dependencies(cli_tests swiftprune_cli)
