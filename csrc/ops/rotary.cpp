#include "ops/rotary.h"

#include "ops/runs.h"
#include "runtime/aligned_buffer.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

void copy_values(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t n) {
  if (from_step == 1 && to_step == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  } else if (from_step == 2 && to_step == 1) {  // pairs of neighbours: compilers know this one
    for (int64_t i = 0; i < n; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * to_step] = from[i * from_step];
  }
}

void rotate_head(const KernelTable& table, const RotaryArgs& args, const float* x, float* y,
                 int64_t row) {
  const int64_t pairs = args.pairs, xs = args.x_strides[3], ys = args.y_strides[3];
  const float *cos = args.cos + row * pairs, *sin = args.sin + row * pairs;
  const int64_t step = args.is_interleaved ? 2 : 1, second = args.is_interleaved ? 1 : pairs;
  if (step == 1 && xs == 1 && ys == 1) {
    table.float_rows->rotate(x, x + second, cos, sin, pairs, y, y + second);
  } else {
    auto* a = static_cast<float*>(
        scratch(ScratchSlot::kLayoutIn, static_cast<size_t>(2 * pairs) * sizeof(float)));
    float* b = a + pairs;
    copy_values(x, step * xs, a, 1, pairs);
    copy_values(x + second * xs, step * xs, b, 1, pairs);
    table.float_rows->rotate(a, b, cos, sin, pairs, a, b);
    copy_values(a, 1, y, step * ys, pairs);
    copy_values(b, 1, y + second * ys, step * ys, pairs);
  }
  copy_values(x + 2 * pairs * xs, xs, y + 2 * pairs * ys, ys, args.length - 2 * pairs);
}

}  // namespace

void run_rotary(const KernelTable& table, const RotaryArgs& args, int threads) {
  const int64_t rows = args.batch * args.heads * args.tokens;
  note_kernel(table, "rotate_f32", "rows", rows, args.length, 1, threads);
  for_each_group(rows, args.length, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t token = i % args.tokens, head = i / args.tokens % args.heads;
      const int64_t batch = i / args.tokens / args.heads, at = batch * args.tokens + token;
      const auto offset = [&](const int64_t* strides) {
        return batch * strides[0] + head * strides[1] + token * strides[2];
      };
      rotate_head(table, args, args.x + offset(args.x_strides), args.y + offset(args.y_strides),
                  args.position ? args.position[at] : at);
    }
  });
}

}  // namespace octavo
