"""Which kernels run, on how many threads, and how users say otherwise."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo import _core, runtime

A = np.arange(12, dtype=np.uint8).reshape(3, 4)
B = np.arange(8, dtype=np.int8).reshape(4, 2)
ISAS = runtime.available_isas()
DEFAULT = runtime.isa()  # unless OCTAVO_ISA is set here, ISAS[0]
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"


def python(code, *, prefix=(), **environment):
    """Run code in a new interpreter; the result of subprocess.run."""
    if IN_QEMU and "OCTAVO_TEST_PYTHON" not in os.environ:
        pytest.skip("the children of an emulated process are not emulated")
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("OCTAVO_", "OMP_", "OPENBLAS_"))
    }
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def printed(code, **environment):
    result = python(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


SHOW_LAST = """
import numpy as np, octavo as oc
oc.matmul(np.ones((3, 4), np.uint8), np.ones((4, 2), np.int8))
print(oc.runtime.isa(), oc.runtime.last_kernel())
"""

# --- which ISA -----------------------------------------------------------------------------------


def test_the_best_available_isa_is_chosen():
    assert printed(SHOW_LAST) == f"{ISAS[0]} {ISAS[0]}/gemm_u8s8s32"


@pytest.mark.parametrize("isa", runtime.known_isas())
def test_octavo_isa_takes_or_is_refused(isa):
    result = python(SHOW_LAST, OCTAVO_ISA=isa)
    if isa in ISAS or isa == "scalar_odd":
        assert result.stdout.strip() == f"{isa} {isa}/gemm_u8s8s32", result.stderr
    else:
        assert result.returncode == 1
        assert re.search(rf"ValueError: .*'{isa}' needs instructions .*scalar", result.stderr)


@pytest.mark.parametrize("name", ["avx9000", "AVX2", " avx2", "avx2 scalar", "x" * 1025, "-1"])
def test_octavo_isa_refuses_unknown_names_and_lists_the_known(name):
    result = python(SHOW_LAST, OCTAVO_ISA=name)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ValueError: ")
    assert f"'{name}'" in message
    assert all(known in message for known in runtime.known_isas())


def test_octavo_isa_unknown_does_not_stop_the_import():
    assert printed("import octavo; print('imported')", OCTAVO_ISA="avx9000") == "imported"


def test_an_empty_octavo_isa_says_nothing():
    assert printed(SHOW_LAST, OCTAVO_ISA="").startswith(f"{ISAS[0]} ")


def test_octavo_isa_is_refused_at_every_call_not_only_the_first():
    code = """
import octavo as oc
for _ in range(2):
    try:
        oc.runtime.isa()
    except ValueError as error:
        print("refused")
"""
    assert printed(code, OCTAVO_ISA="nothing") == "refused\nrefused"


def test_octavo_verbose_names_the_kernel_and_why():
    result = python(SHOW_LAST, OCTAVO_VERBOSE="1", OCTAVO_ISA="scalar")
    assert "scalar/gemm_u8s8s32" in result.stderr
    assert "octavo" in result.stderr
    assert result.stdout.strip() == "scalar scalar/gemm_u8s8s32"


@pytest.mark.parametrize("name", ISAS)
def test_force_isa_takes_in_with_and_ends_with_it(name):
    before = runtime.isa()
    with runtime.force_isa(name):
        assert runtime.isa() == name
        oc.matmul(A, B)
        assert runtime.last_kernel() == f"{name}/gemm_u8s8s32"
    assert runtime.isa() == before
    oc.matmul(A, B)
    assert runtime.last_kernel().startswith(before)


def test_force_isa_as_a_plain_call_stays_in_force():
    try:
        runtime.force_isa("scalar")
        assert runtime.isa() == "scalar"
        oc.matmul(A, B)
        assert runtime.last_kernel() == "scalar/gemm_u8s8s32"
    finally:
        runtime.force_isa(None)
    assert runtime.isa() == DEFAULT


def test_force_isa_nests_and_is_undone_by_errors():
    other = ISAS[0]
    with runtime.force_isa("scalar"):
        with contextlib.suppress(KeyError), runtime.force_isa(other):
            assert runtime.isa() == other
            raise KeyError
        assert runtime.isa() == "scalar"
        runtime.force_isa(other)  # a plain call ends with the block around it
    assert runtime.isa() == DEFAULT


def test_a_setting_can_be_entered_again():
    setting = runtime.force_isa("scalar")
    for _ in range(2):
        with setting:
            assert runtime.isa() == "scalar"
        assert runtime.isa() == DEFAULT


def test_force_isa_is_for_its_own_thread():
    seen = {}

    def other():
        seen["inherited"] = runtime.isa()
        with runtime.force_isa("scalar"):
            ready.set()
            done.wait(10)
            seen["forced"] = runtime.isa()

    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    with runtime.force_isa("scalar"):
        thread.start()
        assert ready.wait(10)
    seen["here"] = runtime.isa()
    done.set()
    thread.join(10)
    assert seen == {"inherited": DEFAULT, "forced": "scalar", "here": DEFAULT}


@pytest.mark.parametrize("name", ["avx9000", "", "AVX2"])
def test_force_isa_refuses_unknown_names_and_lists_the_known(name):
    before = runtime.isa()
    with pytest.raises(ValueError, match=rf"'{name}', expected one of .*scalar"):
        runtime.force_isa(name)
    assert runtime.isa() == before


def test_force_isa_refuses_what_this_machine_lacks():
    missing = [name for name in runtime.known_isas() if name not in ISAS and "odd" not in name]
    for name in missing:
        with pytest.raises(ValueError, match=rf"'{name}' needs instructions that this CPU"):
            runtime.force_isa(name)
    with pytest.raises(TypeError, match=r"name is int, expected str or None"):
        runtime.force_isa(2)


def test_packed_operands_follow_the_isa():
    packed = oc.pack(B)
    layer = oc.Linear.from_float(np.ones((5, 7), np.float32))
    x = np.linspace(-1, 1, 21, dtype=np.float32).reshape(3, 7)
    wanted, y = oc.matmul(A, packed), layer(x)
    for name in ISAS:
        with runtime.force_isa(name):
            assert np.array_equal(oc.matmul(A, packed), wanted)
            assert np.array_equal(layer(x), y)
            assert runtime.last_kernel().startswith(f"{name}/")


# --- detection -----------------------------------------------------------------------------------

NEEDS = {  # flags of /proc/cpuinfo
    "avx512vnni": "avx512f avx512bw avx512dq avx512vl avx512_vnni avx2 fma f16c",
    "avxvnni": "avx_vnni avx2 fma f16c",
    "avx2": "avx2 fma f16c",
    "neoni8mm": "asimd asimddp i8mm",
    "neondot": "asimd asimddp",
    "neon": "asimd",
    "scalar": "",
}


def test_detection_agrees_with_cpuinfo():
    if not Path("/proc/cpuinfo").exists() or IN_QEMU:
        pytest.skip("/proc/cpuinfo does not describe the CPU that octavo sees")
    text = Path("/proc/cpuinfo").read_text()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    assert line is not None
    flags = set(line[1].split())
    names = [name for name in runtime.known_isas() if name in NEEDS]
    assert names[-1] == "scalar"
    assert [name for name in names if set(NEEDS[name].split()) <= flags] == ISAS


def test_detection_agrees_with_the_auxiliary_vector():
    if platform.machine() not in {"aarch64", "arm64"}:
        pytest.skip("HWCAP tells of instructions on ARM only")
    if os.environ.get("OCTAVO_IN_QEMU") == "1":
        pytest.skip("/bin/true is the host's here, not the emulated machine's")
    shown = subprocess.run(
        ["/bin/true"], env={"LD_SHOW_AUXV": "1"}, capture_output=True, text=True, check=True
    ).stdout
    hwcap = int(re.search(r"AT_HWCAP:\s*([0-9a-f]+)", shown)[1], 16)
    assert ("neondot" in ISAS) == bool(hwcap >> 20 & 1)


def test_the_features_shown_are_those_the_isas_need():
    shown = set(_core.cpu_features().split())
    assert ("avx2" in ISAS) == ({"avx2", "fma", "f16c"} <= shown)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="qemu-x86_64 runs x86 programs")
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="qemu-user is not installed")
@pytest.mark.skipif(IN_QEMU, reason="no emulator in an emulator")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="qemu takes its memory")
@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isa"), [("Nehalem", "scalar"), ("Haswell", "avx2")])
def test_older_cpus_get_what_they_can_run(cpu, isa):
    code = SHOW_LAST + "print([str(w.category.__name__) for w in caught])"
    code = "import warnings\nwith warnings.catch_warnings(record=True) as caught:\n" + "".join(
        f"    {line}\n" for line in code.strip().splitlines()
    )
    result = python(code, prefix=("qemu-x86_64", "-cpu", cpu))
    warned = ["FallbackWarning"] if isa == "scalar" else []
    assert result.stdout.splitlines() == [f"{isa} {isa}/gemm_u8s8s32", str(warned)], result.stderr


def test_the_fallback_is_said_once_unless_asked_for():
    code = """
import warnings
from types import SimpleNamespace
import octavo as oc
import octavo.runtime, importlib
octavo.runtime.available_isas = lambda: ["scalar"]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    importlib.reload(oc)
print([(w.category.__name__, str(w.message)) for w in caught])
"""
    shown = printed(code)
    assert shown.count("FallbackWarning") == 1
    found = re.search(r"none of the instructions that octavo has kernels for \((.*?)\)", shown)
    assert found is not None, shown
    assert found[1].split(", ") == [n for n in runtime.known_isas() if not n.startswith("scalar")]
    assert printed(code, OCTAVO_ISA="scalar") == "[]"


# --- last_kernel ---------------------------------------------------------------------------------


def test_last_kernel_is_of_its_own_thread_and_empty_before_any():
    oc.matmul(A, B)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(runtime.last_kernel()))
    thread.start()
    thread.join(10)
    assert seen == [""]
    assert runtime.last_kernel().endswith("/gemm_u8s8s32")


@pytest.mark.parametrize("isa", ISAS)
def test_every_product_says_which_kernel_it_ran(isa):
    grouped = oc.quantize(np.ones((4, 6), np.float32), "int4", axis=0, group_size=2)
    plain = oc.quantize(np.ones((4, 6), np.float32), axis=0)
    with runtime.force_isa(isa):
        for w, kernel in ((grouped, "gemm_s8u"), (plain, "gemm_u8s8s32")):
            oc.matmul(A, B)
            oc.requantize(np.ones((1, 1), np.int32), 1.0)
            np.ones((2, 6), np.float32) @ w.T
            assert runtime.last_kernel().startswith(f"{isa}/{kernel}")


# --- threads -------------------------------------------------------------------------------------


@pytest.fixture
def process_threads():
    before = runtime.get_num_threads()
    yield
    oc.set_num_threads(before)


@pytest.mark.usefixtures("process_threads")
def test_set_num_threads_is_for_every_thread():
    oc.set_num_threads(3)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(runtime.get_num_threads()))
    thread.start()
    thread.join(10)
    assert seen == [3]
    assert runtime.get_num_threads() == 3


@pytest.mark.usefixtures("process_threads")
def test_threads_overrides_in_its_own_thread_until_its_end():
    oc.set_num_threads(2)
    with oc.threads(5):
        assert runtime.get_num_threads() == 5
        with oc.threads(1):
            assert runtime.get_num_threads() == 1
        with oc.threads(None):
            assert runtime.get_num_threads() == 2
        seen = []
        thread = threading.Thread(target=lambda: seen.append(runtime.get_num_threads()))
        thread.start()
        thread.join(10)
        assert seen == [2]
    assert runtime.get_num_threads() == 2


@pytest.mark.parametrize("set_threads", [oc.set_num_threads, oc.threads])
def test_thread_counts_below_one_and_no_integers_are_refused(set_threads):
    before = runtime.get_num_threads()
    for count in (0, -1):
        with pytest.raises(ValueError, match=rf"count is {count}, expected at least 1"):
            set_threads(count)
    for count in (1.5, "2", True):
        with pytest.raises(TypeError, match=r"integer"):
            set_threads(count)
    assert runtime.get_num_threads() == before
    set_threads(np.int64(before))
    runtime.threads(None)


THREADS = "import octavo; print(octavo.runtime.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"OCTAVO_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OCTAVO_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OCTAVO_NUM_THREADS": "none", "OMP_NUM_THREADS": "5"}, 5),
        ({"OCTAVO_NUM_THREADS": "0"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_environment_sets_the_number_of_threads(environment, count):
    wanted = _core.usable_cores() if count is None else count
    assert printed(THREADS, **environment) == str(wanted)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity mask here")
def test_the_affinity_mask_is_respected():
    code = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})\n{THREADS}"
    assert printed(code) == "1"


def test_threadpoolctl_governs_octavo():
    code = """
import threadpoolctl
class Octavo(threadpoolctl.LibController):
    user_api, internal_api = "octavo", "octavo"
    filename_prefixes = ("_core",)
    check_symbols = ("octavo_get_num_threads",)
    def get_num_threads(self): return self.dynlib.octavo_get_num_threads()
    def set_num_threads(self, n): return self.dynlib.octavo_set_num_threads(n)
    def get_version(self):
        import ctypes
        self.dynlib.octavo_get_version.restype = ctypes.c_char_p
        return self.dynlib.octavo_get_version().decode()
    def set_additional_attributes(self): pass
threadpoolctl.register(Octavo)
import octavo as oc
before = oc.runtime.get_num_threads()
with threadpoolctl.threadpool_limits(1, user_api="octavo"):
    print(oc.runtime.get_num_threads())
(info,) = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "octavo"]
print(info["version"] == oc.__version__, oc.runtime.get_num_threads() == before)
"""
    pytest.importorskip("threadpoolctl")
    assert printed(code, OCTAVO_NUM_THREADS="2") == "1\nTrue True"


# --- show_config and the package -----------------------------------------------------------------


def test_show_config_prints_what_it_returns(capsys):
    assert oc.show_config() is None
    text = capsys.readouterr().out
    config = oc.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    assert config["octavo"]["version"] == oc.__version__
    assert config["octavo"]["numpy"] == np.__version__
    assert config["isa"]["used"] == runtime.isa()
    assert config["isa"]["available"] == ISAS
    assert config["threads"]["used"] == runtime.get_num_threads()
    for word in (oc.__version__, np.__version__, config["cpu"]["name"], " ".join(ISAS), "KiB"):
        assert word in text
    with pytest.raises(ValueError, match=r"mode is 'json', expected 'stdout' or 'dicts'"):
        oc.show_config("json")


def test_show_config_says_why_an_isa_is_used():
    with runtime.force_isa("scalar"):
        assert oc.show_config("dicts")["isa"] == {
            "used": "scalar",
            "because": "runtime.force_isa",
            "available": ISAS,
            "known": runtime.known_isas(),
        }


def test_show_config_tells_the_variable_from_the_choice():
    code = "import octavo; print(octavo.show_config('dicts')['isa']['because'])"
    assert printed(code) == "the best that CPU and operating system support"
    assert printed(code, OCTAVO_ISA="scalar") == "OCTAVO_ISA"


def test_every_public_name_is_there():
    assert all(hasattr(oc, name) for name in oc.__all__)
    assert all(hasattr(runtime, name) for name in runtime.__all__)
    assert issubclass(oc.UnsupportedOpError, oc.ModelError)
    assert issubclass(oc.ModelError, ValueError)
    assert issubclass(oc.FallbackWarning, UserWarning)


def test_the_version_is_the_projects():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert f'\nversion = "{oc.__version__}"' in project


def test_the_import_brings_nothing_but_numpy_and_nothing_slow():
    code = """
import sys, numpy
before = set(sys.modules)
import octavo
print(sorted(set(sys.modules) - before))
"""
    brought = set(eval(printed(code)))
    assert "octavo.nn.linear" in brought
    packages = {name.split(".")[0] for name in brought} - sys.stdlib_module_names
    assert packages == {"octavo", "numpy"}
    slow = {"argparse", "asyncio", "dataclasses", "email", "hashlib", "importlib.metadata"}
    slow |= {"importlib.resources", "inspect", "json", "logging", "subprocess", "tempfile"}
    assert not brought & slow
    assert not {name for name in brought if name.startswith(("octavo.cli", "octavo.demo"))}
