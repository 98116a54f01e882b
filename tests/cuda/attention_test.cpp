// Attention on the GPU against the reference backend: lengths around the tiles, grouped heads, windows, soft
// caps.
#include "cuda/gpu.h"
#include "swiftprune/backend/backend.h"

namespace swiftprune {
namespace {

using test::relative_error;
using test::rounded;
using testing::random_matrix;

struct Shape {
  std::int64_t length, sequences, heads, kv_heads, head_size;
};
const Shape kShapes[] = {{1, 2, 2, 2, 8},     {5, 1, 2, 1, 6},    {63, 1, 4, 2, 16},  {64, 2, 2, 1, 32},
                         {65, 1, 2, 2, 64},   {130, 2, 3, 1, 80}, {200, 1, 2, 2, 96}, {257, 1, 2, 1, 128},
                         {150, 1, 2, 1, 256}, {33, 3, 1, 1, 20},  {300, 2, 9, 3, 64}, {700, 1, 20, 4, 128}};

class CudaAttentionTest : public test::GpuTest {};

TEST_F(CudaAttentionTest, AgreesWithTheReference) {
  const auto reference = make_reference_backend();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const double tolerance = dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3;
    for (const Shape& s : kShapes) {
      for (const auto& [window, softcap] : {std::pair{0, 0.0f}, {40, 0.0f}, {0, 3.0f}, {1, 2.0f}}) {
        const std::int64_t rows = s.length * s.sequences;
        const std::int64_t stride = (s.heads + 2 * s.kv_heads) * s.head_size;
        const Matrix qkv = rounded(random_matrix(rows, stride, 4), dtype);
        AttentionParams params;
        params.num_heads = s.heads;
        params.num_kv_heads = s.kv_heads;
        params.head_size = s.head_size;
        params.scale = 0.7f;
        params.softcap = softcap;
        params.window = window;
        Matrix expected(rows, s.heads * s.head_size);
        for (std::int64_t i = 0; i < s.sequences; ++i) {
          const auto part = qkv.view().row_block(i * s.length, s.length);
          reference->attention(part.col_block(0, s.heads * s.head_size),
                               part.col_block(s.heads * s.head_size, s.kv_heads * s.head_size),
                               part.col_block((s.heads + s.kv_heads) * s.head_size, s.kv_heads * s.head_size),
                               params, expected.view().row_block(i * s.length, s.length));
        }
        const auto data = upload_as(qkv, dtype);
        const auto at = [&](std::int64_t element) { return data.data() + element * size_of(dtype); };
        cuda::AttentionArgs args;
        args.q = at(0);
        args.k = at(s.heads * s.head_size);
        args.v = at((s.heads + s.kv_heads) * s.head_size);
        args.dtype = dtype;
        args.rows = rows;
        args.sequence_length = s.length;
        args.row_stride = stride;
        args.head_stride = s.head_size;
        args.num_heads = s.heads;
        args.num_kv_heads = s.kv_heads;
        args.head_size = s.head_size;
        args.scale = params.scale;
        args.softcap = softcap;
        args.window = window;
        for (const auto& [name, kernel] :
             {std::pair{"chosen", &cuda::attention}, {"portable", &cuda::attention_portable}}) {
          const auto out = poisoned(expected.numel() * size_of(dtype));
          args.out = out.data();
          kernel(args, *stream_);
          EXPECT_LE(relative_error(download_as(out, dtype, rows, expected.cols()).view(), expected.view()),
                    tolerance)
              << name << ' ' << name_of(dtype) << " length " << s.length << " head size " << s.head_size
              << " window " << window << " cap " << softcap;
        }
      }
    }
  }
}

}  // namespace
}  // namespace swiftprune
