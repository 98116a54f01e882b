target_sources(swiftprune PRIVATE
  model/config_reader.cpp
  model/family_config.cpp
  model/rope.cpp
  model/family.cpp
  model/llama.cpp
  model/decoder_block.cpp
  model/model.cpp
  model/forward.cpp
  model/generator.cpp
  model/sampler.cpp)
