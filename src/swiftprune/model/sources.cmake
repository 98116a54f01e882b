target_sources(swiftprune PRIVATE
  model/config_reader.cpp
  model/family_config.cpp
  model/resident_model.cpp
  model/rope.cpp
  model/family.cpp
  model/llama.cpp
  model/mistral.cpp
  model/qwen.cpp
  model/gemma.cpp
  model/gpt_neox.cpp
  model/phi3.cpp
  model/opt.cpp
  model/decoder_block.cpp
  model/model.cpp
  model/forward.cpp
  model/generator.cpp
  model/sampler.cpp)
