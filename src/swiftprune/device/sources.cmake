target_sources(swiftprune PRIVATE
  device/device.cpp
  device/cpu_device.cpp
  device/open_device.cpp)
