# cpack -G DEB: swiftprune (the program, its libraries, manual pages, completions) and swiftprune-dev (headers and what
# find_package reads). What they depend on is read from the libraries (dpkg-shlibdeps). Made for this Debian and no
# archive.
set(CPACK_PACKAGE_NAME swiftprune)
set(CPACK_PACKAGE_CONTACT "swiftprune maintainers <maintainers@swiftprune.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "makes a large language model smaller and faster")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_SOURCE_DIR}/dist)
set(CPACK_COMPONENTS_ALL runtime devel)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
  WORLD_READ WORLD_EXECUTE)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)  # which package others need that are linked to libswiftprune.so.0
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME swiftprune)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION science)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION
  "Post-training pruning, shrinking, few-bit weights and serving of large
language models: a Hugging Face folder or a GGUF file goes in, a Hugging
Face folder comes out, on the machine you have.")
set(CPACK_DEBIAN_DEVEL_PACKAGE_NAME swiftprune-dev)
set(CPACK_DEBIAN_DEVEL_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVEL_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_DEVEL_PACKAGE_DEPENDS
  "swiftprune (= ${PROJECT_VERSION}-1), libfmt-dev, nlohmann-json3-dev (>= 3.11)")
set(CPACK_COMPONENT_DEVEL_DESCRIPTION
  "Headers of swiftprune and what CMake's find_package(swiftprune) reads.")
# What Debian wants beside the files: the library is found by ldconfig's cache; copyright and changelog of each package.
file(COPY ${CMAKE_CURRENT_LIST_DIR}/debian/triggers DESTINATION ${PROJECT_BINARY_DIR}/debian
  FILE_PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_EXTRA ${PROJECT_BINARY_DIR}/debian/triggers)
if(CMAKE_INSTALL_PREFIX STREQUAL /usr)
  execute_process(COMMAND git log -1 --format=%aD WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT date)
    string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
  endif()
  file(WRITE ${PROJECT_BINARY_DIR}/debian/changelog.Debian "swiftprune (${PROJECT_VERSION}-1) unstable; urgency=medium

  * Version ${PROJECT_VERSION}.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
  execute_process(COMMAND gzip -9nf ${PROJECT_BINARY_DIR}/debian/changelog.Debian COMMAND_ERROR_IS_FATAL ANY)
  foreach(pair runtime:swiftprune devel:swiftprune-dev)
    string(REPLACE ":" ";" pair ${pair})
    list(GET pair 0 component)
    list(GET pair 1 package)
    install(FILES ${CMAKE_CURRENT_LIST_DIR}/debian/copyright ${PROJECT_BINARY_DIR}/debian/changelog.Debian.gz
      DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package} COMPONENT ${component})
  endforeach()
endif()
include(CPack)
