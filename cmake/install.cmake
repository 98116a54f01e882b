# cmake --install: the program with its libraries, manual pages and completions (component runtime); headers and what
# find_package(swiftprune) reads (component devel).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

install(TARGETS swiftprune_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
install(TARGETS swiftprune EXPORT swiftpruneTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime
  NAMELINK_COMPONENT devel)
if(SWIFTPRUNE_CUDA)
  install(TARGETS swiftprune_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
endif()
if(SWIFTPRUNE_MPI)
  install(TARGETS swiftprune_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
endif()

# The program writes them of its own options, when it is installed: there is nothing to keep in step.
set(SWIFTPRUNE_SHELL_FILES ${PROJECT_BINARY_DIR}/shell_files)
configure_file(${CMAKE_CURRENT_LIST_DIR}/shell_files.cmake.in ${PROJECT_BINARY_DIR}/shell_files.cmake.in @ONLY)
file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/shell_files.cmake INPUT ${PROJECT_BINARY_DIR}/shell_files.cmake.in)
install(SCRIPT ${PROJECT_BINARY_DIR}/shell_files.cmake COMPONENT runtime)
install(DIRECTORY ${SWIFTPRUNE_SHELL_FILES}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR} COMPONENT runtime)
install(FILES ${SWIFTPRUNE_SHELL_FILES}/swiftprune.bash RENAME swiftprune
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT runtime)
install(FILES ${SWIFTPRUNE_SHELL_FILES}/swiftprune.zsh RENAME _swiftprune
  DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions COMPONENT runtime)
install(FILES ${SWIFTPRUNE_SHELL_FILES}/swiftprune.fish
  DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT runtime)

# GPU code is opened by the library, never called: its headers stay here.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/swiftprune DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel
  FILES_MATCHING PATTERN "*.h" PATTERN "cuda" EXCLUDE)
set(config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/swiftprune)
install(EXPORT swiftpruneTargets NAMESPACE swiftprune:: DESTINATION ${config_folder} COMPONENT devel)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/swiftpruneConfig.cmake.in
  ${PROJECT_BINARY_DIR}/swiftpruneConfig.cmake INSTALL_DESTINATION ${config_folder})
# 0.x: every minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/swiftpruneConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/swiftpruneConfig.cmake ${PROJECT_BINARY_DIR}/swiftpruneConfigVersion.cmake
  DESTINATION ${config_folder} COMPONENT devel)
