swiftprune_test(export/gguf_writer)
swiftprune_test(export/gguf_quantize)
swiftprune_test(export/export_gguf)
