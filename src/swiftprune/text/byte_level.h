// GPT-2's alphabet of bytes: each byte is written as one printable code point below U+0144 (openai/gpt-2,
// encoder.py: bytes_to_unicode), so that a vocabulary of byte strings can be stored as text.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace swiftprune::text {

// Appends the spelling of each byte.
void append_byte_level(std::string& out, std::string_view bytes);
// The bytes that a spelling stands for; nothing when it holds a code point outside the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view spelling);

}  // namespace swiftprune::text
