# cpack -G DEB: swiftprune (the program, its libraries, manual pages, completions) and swiftprune-dev (headers and what
# find_package reads). What they depend on is read from the libraries (dpkg-shlibdeps). Made for this Debian and no
# archive: the library has no version of its own yet.
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
include(CPack)
