#include <pybind11/pybind11.h>

#include "bindings/register.h"

// NumPy itself refuses subinterpreters, so nothing else could be tested.
PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used(),
                pybind11::multiple_interpreters::not_supported()) {
  m.doc() = "Octavo's kernels behind plain functions. Use the package `octavo`, not this module.";
  m.attr("__version__") = OCTAVO_VERSION;
  octavo::register_runtime(m);
  octavo::register_matmul(m);
  octavo::register_elementwise(m);
  octavo::register_linear(m);
  octavo::register_float(m);
  octavo::register_float_pool(m);
  octavo::register_grouped(m);
  octavo::register_conv(m);
  octavo::register_recurrent(m);
  octavo::register_gather(m);
  octavo::register_rows(m);
  octavo::register_tensor(m);
  octavo::register_attention(m);
  octavo::register_plan(m);
}
