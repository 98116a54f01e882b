set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS recovery/trainer.py)
file(READ recovery/trainer.py trainer_script)
configure_file(recovery/trainer_script.cpp.in ${CMAKE_CURRENT_BINARY_DIR}/trainer_script.cpp @ONLY)
target_sources(swiftprune PRIVATE
  ${CMAKE_CURRENT_BINARY_DIR}/trainer_script.cpp
  recovery/recovery.cpp)
