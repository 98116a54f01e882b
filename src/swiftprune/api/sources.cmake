target_sources(swiftprune PRIVATE
  api/text_writer.cpp)
