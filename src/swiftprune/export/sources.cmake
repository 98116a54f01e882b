target_sources(swiftprune PRIVATE
  export/gguf_writer.cpp
  export/gguf_grid.cpp
  export/gguf_fit.cpp
  export/gguf_quantize.cpp
  export/gguf_mixes.cpp
  export/gguf_compensate.cpp
  export/gguf_calibrated.cpp
  export/gguf_expert_metadata.cpp
  export/gguf_ropes.cpp
  export/gguf_metadata.cpp
  export/gguf_sources.cpp
  export/gguf_vocabulary.cpp
  export/export_gguf.cpp)
# Quantised values must not depend on whether the processor has FMA.
set_source_files_properties(export/gguf_quantize.cpp export/gguf_grid.cpp export/gguf_fit.cpp
  export/gguf_compensate.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
