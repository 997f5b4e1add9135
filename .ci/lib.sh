# Functions of .ci/run and .ci/full. Each section runs in a subshell under `set -e`, is timed, and is
# named in the summary; one that fails lets the others go on and fails the whole.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1
export MALLOC_PERTURB_=165 # what malloc returns is no zero by luck
work=${OCTAVO_CI_WORK:-$PWD/build/ci}
jobs=$(nproc)
mkdir -p "$work"
summary=() failures=0

section() { # section NAME COMMAND...: unless the command line names other sections
  local name=$1 started=$SECONDS status
  shift
  [[ -z $only || " $only " == *" $name "* ]] || return 0
  printf '\n======== %s\n' "$name"
  (set -e; "$@")
  status=$?
  ((status == 0)) || failures=$((failures + 1))
  summary+=("$(printf '%-10s %-6s %4d s' "$name" "$([[ $status == 0 ]] && echo ok || echo FAILED)" \
    $((SECONDS - started)))")
}

together() { # together 'NAME COMMAND...' ...: sections that need but one core, two at a time
  local spec name status seconds
  for spec in "$@"; do
    name=${spec%% *}
    [[ -z $only || " $only " == *" $name "* ]] || continue
    while (($(jobs -rp | wc -l) >= 2)); do wait -n; done
    {
      seconds=$SECONDS
      (set -e; ${spec#* }) > "$work/section-$name.log" 2>&1
      echo "$? $((SECONDS - seconds))" > "$work/section-$name"
      flock 9 # whole sections, one after the other
      printf '\n======== %s\n' "$name"
      cat "$work/section-$name.log"
    } 9> "$work/printing" &
  done
  wait
  for spec in "$@"; do
    name=${spec%% *}
    [[ -z $only || " $only " == *" $name "* ]] || continue
    read -r status seconds < "$work/section-$name"
    ((status == 0)) || failures=$((failures + 1))
    summary+=("$(printf '%-10s %-6s %4d s' "$name" "$([[ $status == 0 ]] && echo ok || echo FAILED)" \
      "$seconds")")
  done
}

finish() {
  printf '\n======== summary\n'
  printf '%s\n' "${summary[@]}"
  exit $((failures > 0))
}

install_tools() {
  local missing=() command package
  while read -r command package; do
    command -v "$command" > /dev/null || missing+=("$package")
  done <<< 'g++ g++
cmake cmake
ninja ninja-build
clang-19 clang-19
clang-tidy-19 clang-tidy-19
clang-format-19 clang-format-19
qemu-aarch64 qemu-user
aarch64-linux-gnu-g++ g++-aarch64-linux-gnu'
  [ -e "$(clang-19 -print-file-name=libclang_rt.asan-x86_64.so 2> /dev/null)" ] ||
    missing+=(libclang-rt-19-dev)
  python3 -c 'import ensurepip, sysconfig, pathlib
assert pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()' 2> /dev/null ||
    missing+=(python3-venv python3-dev)
  if ((${#missing[@]})); then
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
  fi
  [ -e "$work/tools" ] || python3 -m venv "$work/tools"
  "$work/tools/bin/pip" install -q mypy numpy 'pybind11>=3.0.2' ruff
}

build() { # build FOLDER CMAKE-OPTION...: all, or `target`
  cmake -S . -B "$1" -G Ninja -DOCTAVO_NATIVE_TESTS=ON "${@:2}" > "$1.log" 2>&1 &&
    cmake --build "$1" --parallel "$jobs" ${target:+--target "$target"} >> "$1.log" 2>&1 && ! grep -n 'warning:' "$1.log" ||
    { tail -n 60 "$1.log"; return 1; }
}

native_tests() { # native_tests BUILD [RUNNER...]: every executable, under a runner if one is given
  local test status=0
  for test in "$1"/native/test_*; do
    echo "--- $(basename "$test")"
    "${@:2}" "$test" || status=1
  done
  return $status
}

import_path() { # import_path BUILD: a folder to import octavo from, with the module of that build
  local folder=$1/import
  rm -rf "$folder"
  mkdir -p "$folder"
  cp -r python/octavo "$folder"
  cp "$1"/_core*.so "$folder/octavo"
  echo "$folder"
}

# The part of the suite that says something about an instruction set.
arithmetic_tests=(-q -m "not slow" -p no:cacheprovider tests --ignore tests/cli
  --ignore tests/strategy --ignore tests/bridge --ignore tests/test_architecture.py
  --ignore tests/test_stub.py)

emulated_suite() { # emulated_suite TABLE BUILD PYTHON QEMU...: tests that this CPU chooses this table
  local table=$1 build=$2 python=$3
  shift 3
  # OpenBLAS does not check these against the CPU; an emulated one may lack what they ask for.
  unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
  export OCTAVO_IN_QEMU=1 OCTAVO_EXPECT_ISA=$table
  native_tests "$build" "$@"
  # Tests that start Python start this one: else it would run on the true CPU, or not at all.
  export OCTAVO_TEST_PYTHON=$work/python-$table
  printf '#!/bin/sh\nexec %s %s "$@"\n' "$*" "$python" > "$OCTAVO_TEST_PYTHON"
  chmod +x "$OCTAVO_TEST_PYTHON"
  # onnx computes the cases of all its operators first, which takes minutes here; and strategies
  # run the operators that the rest tests, for long.
  "$OCTAVO_TEST_PYTHON" -m pytest -r fE "${arithmetic_tests[@]}" --ignore tests/test_onnx_node.py \
    --ignore tests/strategy --ignore tests/bridge
}

lean() { # lean SECTION...: without models, which run the operators that the rest tests
  arithmetic_tests+=(--ignore tests/graph)
  "$@"
}

fuzz_seconds=15

# Haswell less what qemu warns that it cannot do, once for each process.
haswell=Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid

# --- sections -------------------------------------------------------------------------------------

native() { # every table of this CPU against the reference, and the tables against each other
  build "$work/native" -DOCTAVO_PYTHON=OFF
  native_tests "$work/native"
}

user() { # the README's commands
  rm -rf "$work/user"
  python3 -m venv "$work/user"
  . "$work/user/bin/activate"
  pip install -q ".[test]"
  octavo demo
  OCTAVO_NATIVE_BUILD=$work/native pytest -q
}

lint() {
  . "$work/tools/bin/activate"
  ruff check .
  ruff format --check .
  mypy
  find csrc tests/native -name '*.cpp' -o -name '*.h' | xargs clang-format-19 --dry-run -Werror
}

old_x86() { # old_x86 QEMU-CPU TABLE
  gcc -O1 -Wall -shared -fPIC -o "$work/pad_malloc-$2.so" .ci/pad_malloc.c
  export PYTHONMALLOC=malloc
  # Nor does what NumPy gathers with AVX2 always come out of it alive.
  [ "$2" != avx2 ] || export NPY_DISABLE_CPU_FEATURES=X86_V3
  emulated_suite "$2" "$work/native" "$work/user/bin/python" qemu-x86_64 -cpu "$1" \
    -E LD_PRELOAD="$work/pad_malloc-$2.so"
}

arm_build() { # a module for ARM, compiled here against the headers of an ARM Python
  PYTHON=$work/tools/bin/python .ci/arm_root.sh "$work/arm" > "$work/arm_root.log" 2>&1 ||
    { tail -n 60 "$work/arm_root.log"; return 1; }
  build "$work/arm_build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_CXX_FLAGS="-isystem $work/arm/root/usr/include" \
    -DPython_INCLUDE_DIR="$work/arm/root/usr/include/python3.11" \
    -DPYTHON_MODULE_EXTENSION=.cpython-311-aarch64-linux-gnu.so -DPYTHON_MODULE_DEBUG_POSTFIX= \
    -Dpybind11_DIR="$("$work/tools/bin/python" -m pybind11 --cmakedir)"
  import_path "$work/arm_build"
  OCTAVO_NATIVE_BUILD=$work/arm_build NM=aarch64-linux-gnu-nm "$work/user/bin/python" -m pytest -q \
    tests/test_architecture.py -k global_symbol
}

arm() { # arm QEMU-CPU TABLE
  export PYTHONPATH=$work/arm_build/import:$work/arm/site
  emulated_suite "$2" "$work/arm_build" "$work/arm/root/usr/bin/python3.11" \
    qemu-aarch64 -cpu "$1" -L "$work/arm/root"
}

address() { # address and undefined-behaviour sanitizers
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  export ASAN_OPTIONS=detect_leaks=0:strict_init_order=1:allocator_may_return_null=1
  build "$work/address" -DCMAKE_CXX_COMPILER=clang++-19 -DOCTAVO_SANITIZE=address,undefined \
    -DCMAKE_CXX_FLAGS=-shared-libasan -DPython_EXECUTABLE="$work/user/bin/python" \
    -Dpybind11_DIR="$("$work/tools/bin/python" -m pybind11 --cmakedir)"
  import_path "$work/address"
  local runtime
  runtime=$(clang++-19 -print-file-name=libclang_rt.asan-x86_64.so)
  export LD_LIBRARY_PATH=${runtime%/*}
  native_tests "$work/address"
  rm -rf "$work/corpus"
  cp -r tests/native/corpus "$work" # a find is written there
  local topic
  for topic in gemm conv; do
    LD_PRELOAD=$runtime "$work/address/native/fuzz_$topic" -max_total_time="$fuzz_seconds" \
      -verbosity=0 -print_final_stats=1 -artifact_prefix="$work/" "$work/corpus/$topic"
  done
  export LD_PRELOAD=$runtime PYTHONPATH=$work/address/import
  "$work/user/bin/python" -c \
    'from octavo import _core; assert b"__asan_" in open(_core.__file__, "rb").read()'
  # -s: a report must not end in pytest's capture.
  "$work/user/bin/python" -m pytest -s "${arithmetic_tests[@]}"
}

fuzz() { # files that `load` is given: a fixed sequence, so that what was found stays found
  "$work/user/bin/pip" install -q atheris
  rm -rf "$work/files"
  "$work/user/bin/python" tests/fuzz/fuzz_load.py "$work/files" -seed=1 -timeout=120 \
    -rss_limit_mb=3000 -runs=$((8000 * fuzz_seconds)) -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$work/"
}

# Of the pool alone: tests that replace operator new do not link with this sanitizer.
thread() {
  local target=test_runtime
  export TSAN_OPTIONS=halt_on_error=1
  build "$work/thread" -DCMAKE_CXX_COMPILER=clang++-19 -DOCTAVO_SANITIZE=thread -DOCTAVO_PYTHON=OFF
  setarch -R "$work/thread/native/test_runtime"
}
