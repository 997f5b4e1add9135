// A function of one 8-bit tensor as a table of 256 codes (DESIGN section 4, rule 8).
#pragma once

#include <cstdint>
#include <string>

namespace octavo {

struct CodeSpec {
  float scale;
  int32_t zero_point;
  bool is_signed;
};

// y[byte of x] = the code of f(x): f in float64 by additions, multiplications and divisions alone,
// so that no library's exp or tanh has a say; then rounded to float32 and quantized by rule 1.
// `alpha` and `beta` are f's parameters where it has any. Throws std::invalid_argument for a
// function that is not known, or a missing parameter.
void fill_activation_table(const std::string& name, const CodeSpec& x, const CodeSpec& y,
                           const double* alpha, const double* beta, uint8_t* codes);

}  // namespace octavo
