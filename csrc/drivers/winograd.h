// Dense 3 x 3 convolution of stride 1 by Winograd's F(2x2, 3x3), exact: kernels/winograd.h.
//
//   for each block of rows of 2 x 2 output tiles, for each span of columns
//     the inputs that they read are transformed into 16 planes
//     for each panel of weights
//       the weights of 3 x 3 taps are transformed into 16 planes
//       for each plane the micro-kernel multiplies inputs by weights
//       the products are transformed into outputs, through the micro-kernel's epilogue
//
// Weights stay packed as conv.h has them: 16 planes of int16 would take as much memory as float32,
// and reading them as long as making them anew for each block, which many tiles share.
#pragma once

#include "drivers/conv.h"

namespace octavo {

// True if winograd() computes this convolution: the table has the kernels, and there are no
// strides, no dilation, no zero points of weights, and neither too few, too many nor odd channels.
bool winograd_applies(const ConvWeights& w, const ConvGeometry& g, const ConvY& y);

// True if it is also the faster way.
bool winograd_pays(const ConvWeights& w, const ConvGeometry& g);

// Where winograd_applies(). Results are conv()'s to the bit.
void winograd(const ConvWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
              int threads);

}  // namespace octavo
