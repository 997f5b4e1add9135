// One function a topic; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace octavo {

void register_runtime(pybind11::module_& m);
void register_matmul(pybind11::module_& m);
void register_elementwise(pybind11::module_& m);
void register_linear(pybind11::module_& m);
void register_float(pybind11::module_& m);
void register_float_pool(pybind11::module_& m);
void register_grouped(pybind11::module_& m);
void register_conv(pybind11::module_& m);
void register_recurrent(pybind11::module_& m);
void register_gather(pybind11::module_& m);
void register_rows(pybind11::module_& m);
void register_tensor(pybind11::module_& m);
void register_attention(pybind11::module_& m);
void register_plan(pybind11::module_& m);

}  // namespace octavo
