#include "swiftprune/sparse/kernels.h"

namespace swiftprune::sparse_kernels {
namespace {

// A value of kValueBytes goes to the last bytes of its place of kBytes / 8; 0x80 makes a byte zero.
template <int kBytes, int kValueBytes>
constexpr ShuffleTable<kBytes> make_table() {
  ShuffleTable<kBytes> table{};
  constexpr int kPlace = kBytes / 8;
  for (int m = 0; m < 256; ++m) {
    int next = 0;
    for (int place = 0; place < 8; ++place) {
      const bool set = (m >> place & 1) != 0;
      for (int b = 0; b < kPlace; ++b) {
        const int byte = b - (kPlace - kValueBytes);
        table.entry[m][place * kPlace + b] =
            static_cast<std::uint8_t>(set && byte >= 0 ? next * kValueBytes + byte : 0x80);
      }
      next += set ? 1 : 0;
    }
  }
  return table;
}

}  // namespace

constinit const ShuffleTable<8> kExpand8 = make_table<8, 1>();
constinit const ShuffleTable<16> kExpand16 = make_table<16, 2>();
constinit const ShuffleTable<32> kExpand32 = make_table<32, 2>();

}  // namespace swiftprune::sparse_kernels
