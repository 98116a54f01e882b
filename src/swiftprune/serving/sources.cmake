target_sources(swiftprune PRIVATE
  serving/batch_engine.cpp
  serving/openai_api.cpp
  serving/scheduler.cpp
  serving/server.cpp)
