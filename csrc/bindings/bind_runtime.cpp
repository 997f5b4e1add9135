#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <string>
#include <vector>

#include "bindings/context.h"
#include "bindings/register.h"
#include "drivers/gemm.h"
#include "drivers/measure.h"
#include "runtime/cpu_features.h"
#include "runtime/dispatch.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {

namespace py = pybind11;

namespace {

PyObject* isa_context = nullptr;
PyObject* threads_context = nullptr;
// Context variables cost some 50 ns each: they are read only once somebody has set one.
std::atomic<bool> contexts_enabled{false};

// The value of a context variable; a null handle if it is None.
py::object context_value(PyObject* variable) {
  PyObject* value = nullptr;
  if (PyContextVar_Get(variable, nullptr, &value) < 0) throw py::error_already_set();
  if (!value || value == Py_None) {
    Py_XDECREF(value);
    return py::object();
  }
  return py::reinterpret_steal<py::object>(value);
}

PyObject* new_context(const char* name) {
  PyObject* variable = PyContextVar_New(name, Py_None);
  if (!variable) throw py::error_already_set();
  return variable;
}

std::vector<std::string> isa_names(bool supported_only) {
  std::vector<std::string> names;
  for (const KernelTable* table : all_tables()) {
    if (!supported_only || (is_supported(*table) && !table->info->test_only))
      names.emplace_back(table->info->name);
  }
  return names;
}

void check_seconds(double seconds) {
  if (!(seconds > 0.0 && seconds <= 60.0)) throw py::value_error("seconds must be in (0, 60]");
}

}  // namespace

CallContext call_context() {
  CallContext context{nullptr, 0};
  if (contexts_enabled.load(std::memory_order_relaxed)) {
    if (py::object isa = context_value(isa_context))
      context.table = find_table(isa.cast<std::string>());
    if (py::object threads = context_value(threads_context)) context.threads = threads.cast<int>();
  }
  if (!context.table) context.table = default_table();
  if (!context.threads) context.threads = default_threads();
  return context;
}

void register_runtime(py::module_& m) {
  // Never released: calls may read them while the interpreter shuts down.
  isa_context = new_context("octavo.isa");
  threads_context = new_context("octavo.threads");
  m.attr("isa_context") = py::handle(isa_context);
  m.attr("threads_context") = py::handle(threads_context);
  m.def(
      "enable_contexts", [] { contexts_enabled.store(true); },
      "Read isa_context and threads_context in every call from now on.");

  m.def("known_isas", [] { return isa_names(false); }, "Every ISA compiled in, best first.");
  m.def(
      "available_isas", [] { return isa_names(true); },
      "The ISAs that this CPU and operating system support, best first.");
  m.def("isa", [] { return call_context().table->info->name; }, "The ISA that a call here uses.");
  m.def(
      "check_isa", [](const std::string& name) { find_table(name); }, py::arg("name"),
      "Raise ValueError unless `name` is an ISA that this machine can run.");
  m.def("last_kernel", &last_kernel, "\"isa/kernel\" of this thread's last call; \"\" before any.");

  m.def(
      "get_num_threads", [] { return call_context().threads; },
      "The number of threads that a call here uses.");
  m.def(
      "set_num_threads",
      [](int threads) {
        if (threads < 1)
          throw py::value_error("threads must be at least 1, got " + std::to_string(threads));
        set_default_threads(threads);
      },
      py::arg("threads").noconvert(), "Set the process's number of threads.");
  m.def(
      "usable_cores", [] { return usable_cores(); },
      "Cores that the affinity mask and the cgroup quota allow.");

  m.def("cpu_name", &cpu_name, "The model name of the CPU.");
  m.def(
      "cpu_features", [] { return feature_names(cpu_features()); },
      "The instruction sets that CPU and operating system support, of those that matter here.");
  m.def(
      "cache_sizes",
      [] {
        const CacheSizes sizes = cache_sizes();
        return py::make_tuple(sizes.l1d, sizes.l2, sizes.l3);
      },
      "Bytes of the level 1 data, level 2 and level 3 caches; 0 where not known.");

  m.def(
      "measure_peak",
      [](const std::string& isa, double seconds) {
        check_seconds(seconds);
        const KernelTable* table = find_table(isa);
        const py::gil_scoped_release release;
        return measure_peak(*table, seconds);
      },
      py::arg("isa"), py::arg("seconds") = 0.1,
      "Multiply-accumulates a second of a register-only loop of the ISA's dot product.");
  m.def(
      "measure_bandwidth",
      [](int64_t bytes, double seconds) {
        check_seconds(seconds);
        if (bytes < 1) throw py::value_error("bytes must be at least 1");
        const KernelTable* table = call_context().table;
        const py::gil_scoped_release release;
        return measure_bandwidth(*table, bytes, seconds);
      },
      py::arg("bytes"), py::arg("seconds") = 0.1,
      "Bytes a second of one thread that reads a buffer of that size over and over.");

  m.attr("DOTS_PER_THREAD") = kDotsPerThread;
  m.def("set_dots_per_thread", &set_dots_per_thread, py::arg("dots"),
        "Work below which a product stays on one thread, in dot products a thread (for tests).");
  m.def("fp_control", &fp_control, "The floating-point control register.");
  m.def("set_fp_control", &set_fp_control, py::arg("value"),
        "Write the floating-point control register (for tests).");
}

}  // namespace octavo
