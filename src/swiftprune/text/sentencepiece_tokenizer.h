// Reads tokenizer.model as SentencePiece wrote it (LLaMA-2, Mistral, Gemma ...); encodes with that library.
#pragma once

#include <filesystem>
#include <memory>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune::text {

// Added tokens come from the files beside it (tokenizer_config.h); without them the text's own "<s>" is
// ordinary text, as in the library. BOS is put before a text unless add_bos_token is false, EOS after it when
// add_eos_token is true. Text after an added token gets SentencePiece's dummy space only when the config says
// legacy, and no text does when it says add_prefix_space false.
std::unique_ptr<Tokenizer> open_sentencepiece(const std::filesystem::path& file);

}  // namespace swiftprune::text
