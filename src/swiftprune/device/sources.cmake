target_sources(swiftprune PRIVATE
  device/cpu_device.cpp
  device/device.cpp
  device/open_device.cpp)
