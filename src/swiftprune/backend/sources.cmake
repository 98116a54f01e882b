target_sources(swiftprune PRIVATE
  backend/backend.cpp
  backend/reference/reference_backend.cpp)
