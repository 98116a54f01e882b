#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack.h"

namespace swiftprune {

void reference_linear(const PackedTensor& weight, ConstMatrixView x, std::span<const float> bias,
                      MatrixView y) {
  const Matrix w = unpack_f32(weight);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t o = 0; o < w.rows(); ++o) {
      double sum = bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<std::size_t>(o)]);
      for (std::int64_t i = 0; i < w.cols(); ++i) {
        sum += static_cast<double>(x.at(t, i)) * static_cast<double>(w.at(o, i));
      }
      y.at(t, o) = static_cast<float>(sum);
    }
  }
}

}  // namespace swiftprune
