// A layout with odd sizes everywhere, to flush out assumptions. For tests; in no wheel.
#pragma once

#include "isa/scalar_bytes.h"
#include "isa/scalar_depthwise.h"
#include "isa/scalar_grouped.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "scalar_odd";
  static constexpr uint32_t kRequired = 0;
  static constexpr bool kTestOnly = true;
  using Vector = ScalarVector<3>;
  using Bytes = ScalarBytes<3>;
  using Depthwise = ScalarDepthwise<3, 3, 2, 2, true>;
  using Grouped = ScalarGrouped<3, 5, 2, 3, 3, true>;
  struct U8S8 : ScalarTile<3, 5, true> {
    static constexpr int kMaxVectors = 3;
    static constexpr int kRows[] = {7, 5, 3};
    static constexpr int kMc = 11;
  };
};

}  // namespace
}  // namespace octavo
