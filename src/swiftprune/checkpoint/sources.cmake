target_sources(swiftprune PRIVATE
  checkpoint/mapped_file.cpp
  checkpoint/safetensors.cpp
  checkpoint/zip_file.cpp
  checkpoint/pickle.cpp
  checkpoint/pytorch_file.cpp
  checkpoint/text_tower.cpp
  checkpoint/tensor_names.cpp
  checkpoint/checkpoint.cpp
  checkpoint/model_location.cpp
  checkpoint/config_file.cpp
  checkpoint/output_file.cpp
  checkpoint/checkpoint_writer.cpp
  checkpoint/model_card.cpp
  checkpoint/gguf.cpp
  checkpoint/gguf_dequantize.cpp
  checkpoint/gguf_grid_blocks.cpp
  checkpoint/gguf_grids.cpp
  checkpoint/gguf_fields.cpp
  checkpoint/gguf_llama_like.cpp
  checkpoint/gguf_other_norms.cpp
  checkpoint/gguf_experts.cpp
  checkpoint/gguf_hybrids.cpp
  checkpoint/gguf_mamba.cpp
  checkpoint/gguf_delta_net.cpp
  checkpoint/gguf_gemma4.cpp
  checkpoint/gguf_architectures.cpp
  checkpoint/gguf_assembly.cpp
  checkpoint/gguf_pre_tokenizers.cpp
  checkpoint/gguf_tokenizer.cpp
  checkpoint/import_gguf.cpp
  checkpoint/gguf_folder.cpp)
# Dequantised values must not depend on whether the processor has FMA.
set_source_files_properties(checkpoint/gguf_dequantize.cpp checkpoint/gguf_grid_blocks.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
