target_sources(swiftprune PRIVATE
  checkpoint/mapped_file.cpp
  checkpoint/json_file.cpp
  checkpoint/safetensors.cpp
  checkpoint/checkpoint.cpp
  checkpoint/checkpoint_writer.cpp)
