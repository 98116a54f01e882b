#include "swiftprune/core/sha256.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// FIPS 180-4 example values (NIST "SHA256.pdf") and RFC 6234's one million "a".
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheSameDigestAsTheWhole) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>('a' + i % 26);
  const std::string whole = sha256_hex(text);
  for (std::size_t piece : {1U, 55U, 56U, 63U, 64U, 65U, 128U, 299U}) {
    Sha256 hash;
    for (std::size_t i = 0; i < text.size(); i += piece) hash.update(std::string_view(text).substr(i, piece));
    EXPECT_EQ(hash.hex_digest(), whole) << piece;
  }
}

TEST(Sha256, FileAndMissingFile) {
  const auto file = std::filesystem::temp_directory_path() / ("sha256_test." + std::to_string(::getpid()));
  std::ofstream(file, std::ios::binary) << "abc";
  EXPECT_EQ(sha256_file(file), sha256_hex("abc"));
  std::filesystem::remove(file);
  EXPECT_THROW(sha256_file(file), Error);
}

}  // namespace
}  // namespace swiftprune
