#include "ops/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "drivers/gemm.h"
#include "drivers/gemm_f32.h"
#include "drivers/sizes.h"
#include "runtime/aligned_buffer.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Rows of a block, where keys are so many that the cache would hold less.
constexpr int64_t kLeastRows = 16;
constexpr int64_t kMostRows = 128;
constexpr int64_t kMostCausalRows = 64;  // fewer: what all of them do not see is left out
// Causal rows that softmax takes together, for the sake of the latencies of each.
constexpr int64_t kCausalGroup = 16;
// Blocks for each thread, so that none waits long for the last.
constexpr int64_t kBlocksPerThread = 4;
// A score costs about as much as this many multiply-accumulates of its products.
constexpr int64_t kMacsPerScore = 64;

// One head of k and v, ready for products: one or the other precision.
struct Packed {
  PackedB k, v;
  const float* k_scale;       // of each key
  const int32_t* k_zero;      // null: none differs from the stored zero
  const float* v_scale;       // of each key where by_key, else of each column
  const int32_t* v_zero;      // of each column, null as above
  const float* v_multiplier;  // of each column
  bool by_key;

  char *k_floats, *v_floats;  // panels of PackedFloats
  bool v_is_finite;
};

class Attention {
 public:
  Attention(const KernelTable& table, const AttentionSpec& spec, int threads)
      : table_(table),
        info_(*table.info),
        s_(spec),
        head_axis_(spec.batch_axes),
        row_axis_(spec.batch_axes + 1),
        value_axis_(spec.batch_axes + 2),
        rows_(spec.queries),
        loops_(spec.heads / spec.kv_heads),
        items_(spec.kv_heads) {
    for (int i = 0; i < s_.batch_axes; ++i) items_ *= s_.batch[i];
    // Single rows of heads that share keys are rows of one product.
    folds_ = rows_ == 1 && loops_ > 1 &&
             (!s_.q.is_codes ||
              (s_.q.scale.strides[head_axis_] == 0 && s_.q.zero_point.strides[head_axis_] == 0));
    if (folds_) std::swap(rows_, loops_);
    panel_step_ = info_.nr % info_.kr == 0 ? info_.nr : int64_t{info_.nr} * info_.kr;
    score_stride_ = round_up(s_.keys, kColumnPadding);
    // Rows that are a multiple of 4 kB apart would share few sets of L1.
    if (score_stride_ % 1024 == 0) score_stride_ += 16;
    code_stride_ = round_up(s_.keys, 64);
    if (code_stride_ % 4096 == 0) code_stride_ += 64;
    const int64_t macs =
        items_ * rows_ * loops_ * s_.keys * (s_.depth + s_.value_depth + kMacsPerScore);
    threads_ = threads_worth(table, macs, threads);
    const int64_t room = l2_bytes() / 4 / (score_stride_ * 4);
    const int64_t most = std::clamp(room, kLeastRows, s_.causal ? kMostCausalRows : kMostRows);
    const int64_t wanted =
        threads_ > 1 ? ceil_div(kBlocksPerThread * threads_, items_ * loops_) : 1;
    blocks_ = std::max(ceil_div(rows_, most), std::min(wanted, ceil_div(rows_, kLeastRows)));
    plan_memory();
  }

  void run() const {
    const int64_t tasks = loops_ * blocks_;
    if (threads_ > 1 && tasks > 1 && items_ < kBlocksPerThread * threads_) {
      // Few heads: first all are packed, then threads share blocks.
      char* memory = room(ScratchSlot::kB, items_ * packed_bytes_);
      std::vector<Packed> packed(static_cast<size_t>(items_));
      parallel_for(static_cast<int>(items_), threads_, [&](int item) {
        packed[static_cast<size_t>(item)] = pack(item, memory + item * packed_bytes_);
      });
      parallel_for(static_cast<int>(items_ * tasks), threads_, [&](int task) {
        compute(packed[static_cast<size_t>(task / tasks)], task / tasks, task % tasks);
      });
    } else {
      parallel_for(static_cast<int>(items_), threads_, [&](int item) {
        const Packed packed = pack(item, room(ScratchSlot::kB, packed_bytes_));
        for (int64_t task = 0; task < tasks; ++task) compute(packed, item, task);
      });
    }
    note_kernel(table_, s_.integers ? "attention_u8s8f32" : "attention_f32",
                "blocks of rows by whole rows of keys", s_.queries, s_.keys, s_.depth, threads_);
  }

 private:
  static char* room(ScratchSlot slot, int64_t bytes) {
    return static_cast<char*>(scratch(slot, static_cast<size_t>(bytes)));
  }

  void plan_memory() {
    if (s_.integers) {
      k_plan_ = plan_packed(table_, s_.depth, s_.keys, s_.k.is_signed || !s_.k.is_codes);
      v_plan_ = plan_packed(table_, s_.keys, s_.value_depth, s_.v.is_signed || !s_.v.is_codes);
      packed_bytes_ = static_cast<int64_t>(panel_bytes(k_plan_) + column_bytes(k_plan_) +
                                           panel_bytes(v_plan_) + column_bytes(v_plan_)) +
                      3 * round_up(k_plan_.padded_n * 4, 64) +
                      3 * round_up(v_plan_.padded_n * 4, 64);
    } else {
      k_bytes_ = PackedFloats::bytes_of(table_, s_.depth, s_.keys, false);
      packed_bytes_ = k_bytes_ + PackedFloats::bytes_of(table_, s_.keys, s_.value_depth, false);
    }
  }

  // Where head `head` of item's batch begins in an array.
  int64_t offset(const int64_t* strides, int64_t item, int64_t head) const {
    int64_t index = item / s_.kv_heads, at = head * strides[head_axis_];
    for (int i = s_.batch_axes - 1; i >= 0; --i) {
      at += index % s_.batch[i] * strides[i];
      index /= s_.batch[i];
    }
    return at;
  }
  template <class T>
  const T* at(const AttentionArray& array, int64_t item, int64_t head) const {
    return static_cast<const T*>(array.data) + offset(array.strides, item, head);
  }
  // From row to row of a block: from head to head where these are folded.
  int64_t row_stride(const int64_t* strides) const {
    return strides[folds_ ? head_axis_ : row_axis_];
  }

  // --- k and v ---------------------------------------------------------------------------------
  Packed pack(int64_t item, char* memory) const {
    if (s_.keys == 0) return {};
    return s_.integers ? pack_codes(item, memory) : pack_floats(item, memory);
  }

  Packed pack_floats(int64_t item, char* memory) const {
    const int64_t head = item % s_.kv_heads;
    Packed packed{};
    const FloatMatrix k{
        at<float>(s_.k.values, item, head), s_.depth, s_.keys, s_.k.values.strides[value_axis_],
        s_.k.values.strides[row_axis_],     false};
    const FloatMatrix v{
        at<float>(s_.v.values, item, head), s_.keys, s_.value_depth, s_.v.values.strides[row_axis_],
        s_.v.values.strides[value_axis_],   false};
    packed.k_floats = memory;
    packed.v_floats = memory + k_bytes_;
    k_panels(packed).fill(k);
    PackedFloats v_panels = this->v_panels(packed);
    v_panels.fill(v);
    float least, greatest;
    packed.v_is_finite = table_.quantize->minmax(reinterpret_cast<const float*>(packed.v_floats),
                                                 s_.keys * v_panels.padded_n, &least, &greatest);
    return packed;
  }
  PackedFloats k_panels(const Packed& packed) const {
    return {table_, s_.depth, s_.keys, false, packed.k_floats};
  }
  PackedFloats v_panels(const Packed& packed) const {
    return {table_, s_.keys, s_.value_depth, false, packed.v_floats};
  }

  // The codes of one operand's head; `scale` of each row where they are made here.
  ByteMatrix codes_of(const AttentionOperand& x, int64_t item, int64_t depth, float* scale) const {
    const int64_t head = item % s_.kv_heads;
    const int64_t row = x.values.strides[row_axis_], value = x.values.strides[value_axis_];
    if (x.is_codes)
      return {at<uint8_t>(x.values, item, head), s_.keys, depth, row, value, x.is_signed};
    auto* codes = reinterpret_cast<int8_t*>(room(ScratchSlot::kOutput, s_.keys * depth));
    quantize_symmetric_rows(table_, at<float>(x.values, item, head), row, s_.keys, depth, codes,
                            depth, scale);
    return {reinterpret_cast<const uint8_t*>(codes), s_.keys, depth, depth, 1, true};
  }

  // `count` zero points as stored, or null where all are what is stored for 0.
  const int32_t* zeros_of(const AttentionOperand& x, int64_t item, int axis, int64_t count,
                          int64_t padded, int32_t* out) const {
    if (!x.is_codes) return nullptr;
    const int32_t* zero = at<int32_t>(x.zero_point, item, item % s_.kv_heads);
    const int64_t step = x.zero_point.strides[axis];
    const int32_t shift = x.is_signed ? 0 : 128;
    bool any = false;
    for (int64_t i = 0; i < count; ++i) {
      out[i] = zero[i * step] - shift;
      any |= out[i] != 0;
    }
    std::fill(out + count, out + padded, 0);
    return any ? out : nullptr;
  }
  void scales_of(const AttentionOperand& x, int64_t item, int axis, int64_t count,
                 float* out) const {
    const float* scale = at<float>(x.scale, item, item % s_.kv_heads);
    const int64_t step = x.scale.strides[axis];
    for (int64_t i = 0; i < count; ++i) out[i] = scale[i * step];
  }

  Packed pack_codes(int64_t item, char* memory) const {
    Packed packed{};
    const auto pack_one = [&](const PackedB& plan, const ByteMatrix& b) {
      char* panels = memory;
      char* sums = panels + panel_bytes(plan);
      memory = sums + column_bytes(plan);
      return pack_into(table_, b, reinterpret_cast<int8_t*>(panels),
                       reinterpret_cast<int32_t*>(sums), 1);
    };
    auto* k_scale = carve<float>(memory, k_plan_.padded_n);
    auto* k_zero = carve<int32_t>(memory, k_plan_.padded_n);
    auto* key_scale = carve<float>(memory, k_plan_.padded_n);
    auto* v_zero = carve<int32_t>(memory, v_plan_.padded_n);
    auto* column_scale = carve<float>(memory, v_plan_.padded_n);

    const ByteMatrix k = codes_of(s_.k, item, s_.depth, k_scale);
    packed.k =
        pack_one(k_plan_, {k.data, s_.depth, s_.keys, k.col_stride, k.row_stride, k.is_signed});
    if (s_.k.is_codes) scales_of(s_.k, item, row_axis_, s_.keys, k_scale);
    packed.k_scale = k_scale;
    packed.k_zero = zeros_of(s_.k, item, row_axis_, s_.keys, k_plan_.padded_n, k_zero);

    packed.v = pack_one(v_plan_, codes_of(s_.v, item, s_.value_depth, key_scale));
    packed.by_key = !s_.v.is_codes || s_.v.by_row;
    std::fill(column_scale, column_scale + v_plan_.padded_n, 1.0f);
    if (!packed.by_key)
      scales_of(s_.v, item, value_axis_, s_.value_depth, column_scale);
    else if (s_.v.is_codes)
      scales_of(s_.v, item, row_axis_, s_.keys, key_scale);
    packed.v_scale = key_scale;
    packed.v_multiplier = column_scale;
    packed.v_zero = zeros_of(s_.v, item, value_axis_, s_.value_depth, v_plan_.padded_n, v_zero);
    return packed;
  }

  // --- one block of rows -------------------------------------------------------------------------
  struct Block {
    int64_t item, head, first, rows;
    int64_t keys;  // that any of its rows sees
    int64_t cols;  // the same, in whole panels
    float* scores;
    uint8_t* codes;    // weights
    float* row_scale;  // of each row of them
    float* extra;      // rows of q (floats), or values of each column (codes)
    float* out;
    int64_t out_stride;
  };

  int64_t visible(int64_t row) const {
    if (!s_.causal) return s_.keys;
    return std::clamp<int64_t>(s_.past + (folds_ ? 0 : row) + 1, 0, s_.keys);
  }

  void compute(const Packed& packed, int64_t item, int64_t task) const {
    const int64_t block = task % blocks_;
    Block b{};
    b.item = item;
    b.head = item % s_.kv_heads * (s_.heads / s_.kv_heads) + task / blocks_;
    b.first = rows_ * block / blocks_;
    b.rows = rows_ * (block + 1) / blocks_ - b.first;
    b.keys = visible(b.first + b.rows - 1);
    b.cols = std::min(s_.keys, round_up(b.keys, panel_step_));
    b.out_stride = row_stride(s_.out_strides);
    b.out = s_.out + offset(s_.out_strides, item, b.head) + b.first * b.out_stride;
    if (b.keys == 0) {
      for (int64_t i = 0; i < b.rows; ++i)
        std::fill(b.out + i * b.out_stride, b.out + i * b.out_stride + s_.value_depth, 0.0f);
      return;
    }
    const int64_t score_bytes = round_up(b.rows * score_stride_ * 4, 64);
    const int64_t extra = s_.integers ? std::max(k_plan_.padded_n, v_plan_.padded_n)
                          : packed.v_is_finite
                              ? b.rows * s_.depth
                              : std::max(b.rows * s_.depth, s_.keys * s_.value_depth);
    const int64_t code_bytes =
        s_.integers ? round_up(b.rows * code_stride_, 64) + round_up(b.rows * 4, 64) : 0;
    char* memory = room(ScratchSlot::kOutput, score_bytes + code_bytes + extra * 4);
    b.scores = carve<float>(memory, b.rows * score_stride_);
    if (s_.integers) {
      b.codes = carve<uint8_t>(memory, b.rows * code_stride_);
      b.row_scale = carve<float>(memory, b.rows);
    }
    b.extra = reinterpret_cast<float*>(memory);
    if (s_.integers)
      compute_codes(packed, b);
    else
      compute_floats(packed, b);
  }

  void compute_floats(const Packed& packed, const Block& b) const {
    const float* q = at<float>(s_.q.values, b.item, b.head);
    const int64_t row = row_stride(s_.q.values.strides), value = s_.q.values.strides[value_axis_];
    for (int64_t i = 0; i < b.rows; ++i) {
      for (int64_t k = 0; k < s_.depth; ++k)
        b.extra[i * s_.depth + k] = q[(b.first + i) * row + k * value] * s_.scale;
    }
    FloatGemm g{};
    g.a = b.extra;
    g.m = b.rows;
    g.row_stride = s_.depth;
    g.c = b.scores;
    g.ldc = score_stride_;
    gemm_f32(g, k_panels(packed).corner(s_.depth, b.cols), 1);
    weigh(b, [&](const FloatRowsArgs& rows, int64_t first) {
      table_.float_rows->softmax(rows);
      for (int64_t i = first; i < first + rows.rows; ++i) {
        float* p = b.scores + i * score_stride_;
        std::fill(p + visible(b.first + i), p + b.cols, 0.0f);
      }
    });
    g = {};
    g.a = b.scores;
    g.m = b.rows;
    g.row_stride = score_stride_;
    g.c = b.out;
    g.ldc = b.out_stride;
    // -0 becomes +0: else the sign would tell how many hidden keys were added after an underflow.
    g.activate = true;
    g.lo = -std::numeric_limits<float>::infinity();
    g.hi = std::numeric_limits<float>::infinity();
    if (packed.v_is_finite)
      gemm_f32(g, v_panels(packed).corner(b.cols, s_.value_depth), 1);
    else
      add_seen(b, g);
  }

  // Weights of 0 pass over values that are not finite: each row by values of its own.
  void add_seen(const Block& b, FloatGemm g) const {
    const float* v = at<float>(s_.v.values, b.item, b.item % s_.kv_heads);
    const int64_t row = s_.v.values.strides[row_axis_], value = s_.v.values.strides[value_axis_];
    g.m = 1;
    for (int64_t i = 0; i < b.rows; ++i, g.a += g.row_stride, g.c += g.ldc) {
      for (int64_t j = 0; j < b.cols; ++j) {
        for (int64_t n = 0; n < s_.value_depth; ++n)
          b.extra[j * s_.value_depth + n] = g.a[j] == 0.0f ? 0.0f : v[j * row + n * value];
      }
      gemm_f32(g, PackedFloats(table_, {b.extra, b.cols, s_.value_depth, s_.value_depth, 1, false}),
               1);
    }
  }

  void compute_codes(const Packed& packed, const Block& b) const {
    const int64_t row = row_stride(s_.q.values.strides);
    GemmA a{};
    a.m = b.rows;
    a.row_stride = row;
    a.k_stride = s_.q.values.strides[value_axis_];
    float scale = s_.scale;
    if (s_.q.is_codes) {
      a.kind = GemmA::Kind::kBytes;
      a.data = at<uint8_t>(s_.q.values, b.item, b.head) + b.first * row;
      a.is_signed = s_.q.is_signed;
      a.zero_point = at<int32_t>(s_.q.zero_point, b.item, b.head);
      scale *= *at<float>(s_.q.scale, b.item, b.head);
    } else {
      a.kind = GemmA::Kind::kQuantizeRows;
      a.data = at<float>(s_.q.values, b.item, b.head) + b.first * row;
    }
    GemmC c{};
    c.type = GemmC::Type::kF32;
    c.data = b.scores;
    c.ldc = score_stride_;
    c.b_zero_point = packed.k_zero;
    for (int64_t j = 0; j < b.cols; ++j) b.extra[j] = scale * packed.k_scale[j];
    std::fill(b.extra + b.cols, b.extra + k_plan_.padded_n, 0.0f);
    c.multiplier = b.extra;
    gemm(a, corner(packed.k, s_.depth, b.cols), c, nullptr, 1);

    WeighArgs w{};
    w.by_key = packed.by_key ? packed.v_scale : nullptr;
    w.code_stride = code_stride_;
    weigh(b, [&](const FloatRowsArgs& rows, int64_t first) {
      w.scores = rows.y;
      w.rows = rows.rows;
      w.n = rows.n;
      w.stride = rows.y_stride;
      w.mask = rows.mask;
      w.keep = rows.keep;
      w.mask_stride = rows.mask_stride;
      w.codes = b.codes + first * code_stride_;
      w.scale = b.row_scale + first;
      table_.attention->weigh(w);
      for (int64_t i = first; i < first + w.rows; ++i) {
        const int64_t seen = visible(b.first + i);
        if (seen == 0) b.row_scale[i] = 0.0f;  // no scores, no weights
        std::fill(b.codes + i * code_stride_ + seen, b.codes + i * code_stride_ + b.cols,
                  uint8_t{0});
      }
    });

    const int32_t zero = 0;
    a = {};
    a.kind = GemmA::Kind::kBytes;
    a.data = b.codes;
    a.m = b.rows;
    a.row_stride = code_stride_;
    a.k_stride = 1;
    a.zero_point = &zero;
    a.row_scale = b.row_scale;
    c.data = b.out;
    c.ldc = b.out_stride;
    c.b_zero_point = packed.v_zero;
    c.multiplier = packed.v_multiplier;
    PackedB v = corner(packed.v, b.cols, s_.value_depth);
    if (b.cols < s_.keys && stored_a_zero_point(table_, false, 0) != 0) {
      auto* sums = reinterpret_cast<int32_t*>(b.extra);
      std::fill(sums, sums + v.padded_n, 0);
      for (int64_t p = 0; p < v.panel_count(); ++p)
        table_.pack->column_sums(v.panels + p * v.panel_stride, v.groups, v.panel_width(p),
                                 sums + p * info_.nr);
      v.col_sum = sums;
    }
    gemm(a, v, c, nullptr, 1);
  }
  // Rows [0, k) of columns [0, n): whole groups and panels, or all there are.
  static PackedB corner(PackedB b, int64_t k, int64_t n) {
    if (n < b.n) b.n = b.padded_n = n;
    b.k = k;
    b.groups = ceil_div(k, b.table->info->kr);
    return b;
  }

  // Calls body(rows, first) for runs of rows from `first` of the block on: their scores, up to the
  // last key that one of them sees and -infinity where the others do not, and their masks.
  template <class Body>
  void weigh(const Block& b, const Body& body) const {
    const AttentionArray& mask = s_.keep.data ? s_.keep : s_.added;
    const int64_t mask_stride = row_stride(mask.strides);
    const int64_t step = mask.data ? mask.strides[value_axis_] : 1;
    // Nothing is added to a score of -infinity, for it might be NaN.
    const int64_t group = step != 1 || (s_.causal && s_.added.data) ? 1
                          : s_.causal                               ? kCausalGroup
                                                                    : b.rows;
    for (int64_t first = 0; first < b.rows; first += group) {
      FloatRowsArgs args{};
      args.x = args.y = b.scores + first * score_stride_;
      args.x_stride = args.y_stride = score_stride_;
      args.rows = std::min(group, b.rows - first);
      args.n = visible(b.first + first + args.rows - 1);
      for (int64_t i = 0; i < args.rows; ++i)
        std::fill(args.y + i * score_stride_ + visible(b.first + first + i),
                  args.y + i * score_stride_ + args.n, -std::numeric_limits<float>::infinity());
      args.mask_stride = mask_stride;
      const int64_t skipped = (b.first + first) * mask_stride;
      if (s_.added.data)
        args.mask = side_by_side(at<float>(mask, b.item, b.head) + skipped, step, args.n);
      if (s_.keep.data)
        args.keep = side_by_side(at<uint8_t>(mask, b.item, b.head) + skipped, step, args.n);
      body(args, first);
    }
  }
  template <class T>
  static const T* side_by_side(const T* from, int64_t step, int64_t count) {
    if (step == 1) return from;
    T* to = reinterpret_cast<T*>(room(ScratchSlot::kRows, count * int64_t{sizeof(T)}));
    for (int64_t j = 0; j < count; ++j) to[j] = from[j * step];
    return to;
  }

  const KernelTable& table_;
  const InfoKernels& info_;
  const AttentionSpec& s_;
  int head_axis_, row_axis_, value_axis_;
  int64_t rows_, loops_, items_;
  bool folds_;
  int64_t panel_step_, score_stride_, code_stride_, blocks_;
  int threads_;
  PackedB k_plan_{}, v_plan_{};
  int64_t k_bytes_ = 0, packed_bytes_ = 0;
};

}  // namespace

void run_attention(const KernelTable& table, const AttentionSpec& spec, int threads) {
  Attention(table, spec, threads).run();
}

void quantize_symmetric_rows(const KernelTable& table, const float* x, int64_t row_stride,
                             int64_t rows, int64_t depth, int8_t* codes, int64_t code_stride,
                             float* scale) {
  GroupedRows g{};
  g.x = x;
  g.ldx = row_stride;
  g.m = rows;
  g.k = g.group_size = g.padded_group = depth;
  g.q = codes;
  g.ldq = code_stride;
  g.scale = scale;
  g.row_start = reinterpret_cast<int32_t*>(
      scratch(ScratchSlot::kAccumulators, static_cast<size_t>(rows) * sizeof(int32_t)));
  g.groups = 1;
  table.gemm_grouped->prepare(g);
  for (int64_t i = 0; i < rows; ++i) {
    const int8_t* row = codes + i * code_stride;
    if (scale[i] == 1.0f && std::all_of(row, row + depth, [](int8_t q) { return q == 0; }))
      scale[i] = 0.0f;
  }
}

}  // namespace octavo
