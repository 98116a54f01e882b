target_sources(swiftprune PRIVATE
  tensor/dtype.cpp
  tensor/matrix.cpp
  tensor/mask.cpp)
