// Functions called the way CPython calls its own (METH_FASTCALL): a small product takes a
// microsecond, and pybind11's dispatch of a dozen keyword arguments would take as long again.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

namespace octavo {

template <size_t N>
struct Signature {
  const char* function;
  std::array<const char*, N> names;
  size_t positional;  // the rest are keyword-only
  size_t required;
  std::array<PyObject*, N> interned{};

  void intern() {
    for (size_t i = 0; i < N; ++i) interned[i] = PyUnicode_InternFromString(names[i]);
  }

  // One borrowed pointer an argument; null where it was not given.
  std::array<PyObject*, N> parse(PyObject* const* args, Py_ssize_t count,
                                 PyObject* keywords) const {
    std::array<PyObject*, N> values{};
    if (count > static_cast<Py_ssize_t>(positional))
      fail("takes " + std::to_string(positional) + " positional arguments, got " +
           std::to_string(count));
    for (Py_ssize_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = args[i];
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < named; ++i) {
      PyObject* keyword = PyTuple_GET_ITEM(keywords, i);
      const size_t at = find(keyword);
      if (values[at]) fail("got multiple values for argument '" + std::string(names[at]) + "'");
      values[at] = args[count + i];
    }
    for (size_t i = 0; i < required; ++i) {
      if (!values[i]) fail("missing required argument '" + std::string(names[i]) + "'");
    }
    return values;
  }

  // The same for tp_call: a tuple, and a dict or null.
  std::array<PyObject*, N> parse_call(PyObject* args, PyObject* keywords) const {
    const Py_ssize_t count = PyTuple_GET_SIZE(args);
    if (!keywords || PyDict_GET_SIZE(keywords) == 0)
      return parse(&PyTuple_GET_ITEM(args, 0), count, nullptr);
    std::vector<PyObject*> all(&PyTuple_GET_ITEM(args, 0), &PyTuple_GET_ITEM(args, 0) + count);
    pybind11::list names;
    for (auto item : pybind11::reinterpret_borrow<pybind11::dict>(keywords)) {
      names.append(item.first);
      all.push_back(item.second.ptr());
    }
    const pybind11::tuple keys(names);
    return parse(all.data(), count, keys.ptr());
  }

 private:
  size_t find(PyObject* keyword) const {
    for (size_t i = 0; i < N; ++i) {
      if (keyword == interned[i]) return i;
    }
    const char* text = PyUnicode_AsUTF8(keyword);
    if (!text) throw pybind11::error_already_set();
    for (size_t i = 0; i < N; ++i) {
      if (std::strcmp(text, names[i]) == 0) return i;
    }
    fail("got an unexpected keyword argument '" + std::string(text) + "'");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw pybind11::type_error(std::string(function) + "() " + what);
  }
};

// Runs `body` and turns its C++ exceptions into Python's. Nothing may pass into the interpreter:
// should setting an error throw in its turn, the process ends.
template <class Body>
// NOLINTNEXTLINE(bugprone-exception-escape)
PyObject* translate_exceptions(const Body& body) noexcept {
  try {
    return body();
  } catch (pybind11::error_already_set& e) {
    e.restore();
  } catch (const pybind11::builtin_exception& e) {
    e.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "not enough memory for the working space of this call");
  } catch (const std::overflow_error& e) {
    PyErr_SetString(PyExc_OverflowError, e.what());
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "an exception of unknown type");
  }
  return nullptr;
}

}  // namespace octavo
