#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/context.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "bindings/tensor_arguments.h"
#include "ops/float_pooling.h"

namespace octavo {
namespace {

// float32 images with channels last; a C-ordered native copy of what is not so itself.
struct FloatImages {
  ArrayView view;
  Images images;
  py::array copy;

  explicit FloatImages(const py::object& x)
      : view(view_of(x.ptr(), "x")), images{}, copy(no_array()) {
    if (type_of(view) != Type::kFloat32) raise_type("x must be float32, got ", dtype_name(view));
    images = images_of(view, "NHWC");
  }
  const float* data() {
    copy = contiguous(view, Type::kFloat32);
    return static_cast<const float*>(copy.data());
  }
};

// Runs body(table, x, y, threads) for a result of this size.
template <class Body>
py::object pooled(FloatImages& x, int64_t height, int64_t width, const Body& body) {
  Result result(Py_None, Type::kFloat32, image_shape(x.images, height, width), {&x.view});
  const float* in = x.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(x.view.size() * NativeScope::kMacsPerValue);
    body(*context.table, in, reinterpret_cast<float*>(result.data()), context.threads);
  }
  return result.finish();
}

py::object float_max_pool(const py::object& object, const py::object& kernel,
                          const py::object& stride, const py::object& padding, bool ceil_mode) {
  FloatImages x(object);
  const Window window =
      window_of(x.images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  return pooled(x, window.height.out, window.width.out,
                [&](const KernelTable& table, const float* in, float* y, int threads) {
                  run_float_max_pool(table, in, x.images, window, y, threads);
                });
}

py::object float_average_pool(const py::object& object, const py::object& kernel,
                              const py::object& stride, const py::object& padding, bool ceil_mode,
                              bool count_include_pad) {
  FloatImages x(object);
  const Window window =
      window_of(x.images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  return pooled(x, window.height.out, window.width.out,
                [&](const KernelTable& table, const float* in, float* y, int threads) {
                  run_float_average_pool(table, in, x.images, window, count_include_pad, y,
                                         threads);
                });
}

py::object float_mean(const py::object& object) {
  FloatImages x(object);
  check_has_pixels(x.images);
  return pooled(x, 1, 1, [&](const KernelTable& table, const float* in, float* y, int threads) {
    run_float_mean(table, in, x.images, y, threads);
  });
}

}  // namespace

void register_float_pool(py::module_& m) {
  m.def("float_max_pool", &float_max_pool, py::arg("x"), py::arg("kernel"), py::arg("stride"),
        py::arg("padding") = py::make_tuple(0, 0, 0, 0), py::arg("ceil_mode") = false,
        "The greatest value under a window of float32 images (batch, height, width, channels); NaN "
        "where there is one. As `max_pool`.");
  m.def("float_average_pool", &float_average_pool, py::arg("x"), py::arg("kernel"),
        py::arg("stride"), py::arg("padding") = py::make_tuple(0, 0, 0, 0),
        py::arg("ceil_mode") = false, py::arg("count_include_pad") = false,
        "The mean under a window, by the taps inside the image, or inside its padding too.");
  m.def("float_mean", &float_mean, py::arg("x"),
        "The mean of each channel of float32 images (batch, height, width, channels), height and "
        "width 1, summed in 64 lanes.");
}

}  // namespace octavo
