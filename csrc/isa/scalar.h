// The table for every CPU: plain C++, compiled for the baseline.
#pragma once

#include "isa/scalar_bytes.h"
#include "isa/scalar_depthwise.h"
#include "isa/scalar_grouped.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "scalar";
  static constexpr uint32_t kRequired = 0;
  static constexpr bool kTestOnly = false;
  using Vector = ScalarVector<4>;
  using Bytes = ScalarBytes<4>;
  using Depthwise = ScalarDepthwise<4, 1, 4, 1, false>;
  using Grouped = ScalarGrouped<4, 4, 2, 2, 0, false>;
  struct U8S8 : ScalarTile<4, 4, false> {
    static constexpr int kMaxVectors = 4;
    static constexpr int kRows[] = {2, 2, 2, 2};
  };
};

}  // namespace
}  // namespace octavo
