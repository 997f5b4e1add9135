// Weds one ISA's trait to one kernel family: compiled once for each pair, with
// -DOCTAVO_ISA=<isa> -DOCTAVO_FAMILY=<family> and the flags of that ISA. Everything but the table
// below has internal linkage, so that no code for this ISA can be linked into common code.
#include <stdint.h>

#if defined(__clang__)
#define OCTAVO_UNROLL _Pragma("unroll")
#else
// GCC 12 wants a literal here; 16 exceeds every tile loop.
#define OCTAVO_UNROLL _Pragma("GCC unroll 16")
#endif
#define OCTAVO_INLINE inline __attribute__((always_inline))
#define OCTAVO_INLINE_LAMBDA __attribute__((always_inline))

#define OCTAVO_STRING(...) #__VA_ARGS__
// clang-format off
#define OCTAVO_HEADER(folder, name) OCTAVO_STRING(folder/name.h)
// clang-format on
#define OCTAVO_JOIN(a, b, c) a##b##_##c
#define OCTAVO_SYMBOL(isa, family) OCTAVO_JOIN(octavo_, isa, family)
#define OCTAVO_MAKER(family) OCTAVO_JOIN(, family, kernels)

#include OCTAVO_HEADER(isa, OCTAVO_ISA)
#include OCTAVO_HEADER(kernels, OCTAVO_FAMILY)

namespace {
constexpr auto kKernels = octavo::OCTAVO_MAKER(OCTAVO_FAMILY)<octavo::Isa>();
}

extern "C" {
extern const decltype(kKernels) OCTAVO_SYMBOL(OCTAVO_ISA, OCTAVO_FAMILY);
const decltype(kKernels) OCTAVO_SYMBOL(OCTAVO_ISA, OCTAVO_FAMILY) = kKernels;
}
