"""The house of HACKING.md, kept by parsing: who may include or import whom, and what leaks where.

Each rule is a function from files ({path: text}) to a list of faults. It runs twice: on the tree,
where it must find nothing, and on a made-up file, where it must find something.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
Files = dict[str, str]

# --- the rules as data ---------------------------------------------------------------------------

# A room of csrc/ and the rooms it may include besides itself.
CPP_ROOMS = {
    "bindings": {"plan", "ops", "drivers", "kernels", "isa", "runtime"},
    "plan": {"ops", "runtime"},
    "ops": {"drivers", "kernels", "runtime"},
    "drivers": {"kernels", "runtime"},
    "runtime": set(),
    "kernels": set(),
    "isa": set(),
    "reference": {"kernels"},
}
# Doors that a room has only for some of its files.
CPP_DOORS = {
    # (file, included file)
    ("runtime/dispatch", "kernels/table.h"),
    ("runtime/trace", "kernels/table.h"),
    ("runtime/dispatch", "kernels/kernels.inc"),
    ("runtime/dispatch", "isa_list.inc"),  # made by CMake
    ("runtime/cpu_features", "isa/features.h"),
}
# Every room but isa/ sees only this much of isa/.
ISA_BORDER = "isa/features.h"
PYBIND_ROOM = "bindings"

# What isa/ and kernels/ may include from the system.
BARE_ROOMS = {
    "isa": {"stdint.h", "immintrin.h", "arm_neon.h"},
    "kernels": {"stdint.h"},
}
ARCHITECTURE_FILES = ("isa/", "runtime/cpu_features", "runtime/fp_mode")
ARCHITECTURE_MACRO = re.compile(
    r"\b(__x86_64|__amd64|__i[3-6]86|_M_X64|_M_AMD64|_M_IX86|_M_ARM|__aarch64|__arm|__ARM|__AVX|__SSE"
    r"|__FMA__|__F16C__|__riscv|__powerpc|__s390)"
)
INTRINSIC = re.compile(
    r"\b(_mm\d*_\w+|__m(128|256|512)[id]?|__builtin_(ia32|neon|aarch64)_\w+"
    r"|(u?int|float|poly)\d+x\d+(x\d)?_t|v[a-z]+\d*q?(_[a-z]+)*_[usfp](8|16|32|64))\b"
    r"|immintrin\.h|arm_neon\.h"
)
VAGUE_NAMES = {"util", "utils", "misc", "common", "helper", "helpers"}

# A room of python/octavo/ and the rooms it may import besides itself.
PYTHON_ROOMS = {
    "cli": {"demo", "strategy", "graph", "nn", "array", "_core", "octavo"},
    "demo": {"nn", "array", "_core", "octavo"},
    "strategy": {"graph", "nn", "array", "_core"},
    "graph": {"nn", "array", "_core"},
    "bridge": {"strategy", "graph", "nn", "array", "_core"},
    "nn": {"array", "_core"},
    "array": {"_core"},
}
# Modules beside the rooms that every room may import; they themselves import _core alone.
PYTHON_SHARED = {"runtime", "show_config", "errors"}
# Importable at the top of a module. Everything else belongs inside the function that needs it.
PYTHON_EAGER = {"numpy", *sys.stdlib_module_names}


# --- rules ---------------------------------------------------------------------------------------


def strip_comments(text: str) -> str:
    """C++ without comments; string literals stay, since #include needs them."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    return pattern.sub(lambda m: m[0] if m[0].startswith('"') else " ", text)


def cpp(files: Files) -> Iterator[tuple[str, str, str]]:
    """(path below csrc/, room, text without comments) of each C++ file."""
    for path, text in files.items():
        if path.startswith("csrc/"):
            name = path.removeprefix("csrc/")
            yield name, name.split("/")[0], strip_comments(text)


def includes(text: str) -> list[tuple[str, str]]:
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.MULTILINE)


def include_direction(files: Files) -> list[str]:
    faults = []
    for path, room, text in cpp(files):
        if room not in CPP_ROOMS:
            faults.append(f"{path}: {room} is no room of csrc/")
            continue
        for bracket, target in includes(text):
            if bracket == "<" or (path.rsplit(".", 1)[0], target) in CPP_DOORS:
                continue
            target_room = target.split("/")[0] if "/" in target else "(no room)"
            allowed = CPP_ROOMS[room] | {room}
            if target_room not in allowed and target != f"{ISA_BORDER}":
                faults.append(f"{path}: {room} must not include {target}")
            if target_room == "isa" and room != "isa" and target != ISA_BORDER:
                faults.append(f"{path}: only isa/ includes {target}")
    return faults


def isa_border(files: Files) -> list[str]:
    """The feature bits are for the room that detects them and for those that print them."""
    return [
        f"{path}: {room} must not include {ISA_BORDER}"
        for path, room, text in cpp(files)
        for _, target in includes(text)
        if target == ISA_BORDER
        and room not in ("isa", "bindings")
        and (path.rsplit(".", 1)[0], target) not in CPP_DOORS
    ]


def pybind_room(files: Files) -> list[str]:
    return [
        f"{path}: only {PYBIND_ROOM}/ knows Python, not {target}"
        for path, room, text in cpp(files)
        for _, target in includes(text)
        if room != PYBIND_ROOM and ("pybind11" in target or target == "Python.h")
    ]


def reference_is_for_tests(files: Files) -> list[str]:
    return [
        f"{path}: reference/ is linked by the tests alone"
        for path, room, text in cpp(files)
        for _, target in includes(text)
        if target.startswith("reference/") and room != "reference"
    ]


def bare_rooms(files: Files) -> list[str]:
    """isa/ and kernels/ take nothing from the C++ library: a template would leave a weak symbol."""
    faults = []
    for path, room, text in cpp(files):
        if room not in BARE_ROOMS:
            continue
        for bracket, target in includes(text):
            if bracket == "<" and target not in BARE_ROOMS[room]:
                faults.append(f"{path}: {room}/ must not include <{target}>")
        faults += [f"{path}: std:: in {room}/" for _ in re.findall(r"\bstd::", text)]
    return faults


def intrinsics(files: Files) -> list[str]:
    return [
        f"{path}: {match[0]} belongs in csrc/isa/"
        for path, room, text in cpp(files)
        if room != "isa"
        for match in INTRINSIC.finditer(text)
    ]


def architecture_conditions(files: Files) -> list[str]:
    return [
        f"{path}: {line.strip()}"
        for path, _, text in cpp(files)
        if not path.startswith(ARCHITECTURE_FILES)
        for line in text.replace("\\\n", " ").splitlines()
        if re.match(r"\s*#\s*(el)?if", line) and ARCHITECTURE_MACRO.search(line)
    ]


def vague_names(files: Files) -> list[str]:
    return [
        f"{path}: name it for what it holds"
        for path in files
        for part in PurePosixPath(path).parts
        if VAGUE_NAMES & set(re.split(r"[_.]", part.lower()))
    ]


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every absolute or relative import in a module as (statement, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module in ("octavo", ".", "..", "..."):  # from octavo import nn
                yield from ((node, f"{module.rstrip('.')}.{alias.name}") for alias in node.names)
            else:
                yield node, module


def python(files: Files) -> Iterator[tuple[str, str, ast.Module]]:
    """(path below octavo/, room, tree) of each Python file of the package."""
    for path, text in files.items():
        if path.startswith("python/octavo/") and path.endswith(".py"):
            name = path.removeprefix("python/octavo/")
            yield name, name.split("/")[0].removesuffix(".py"), ast.parse(text)


def import_direction(files: Files) -> list[str]:
    faults = []
    for path, room, tree in python(files):
        if room in ("__init__", "__main__"):
            continue
        if room in PYTHON_SHARED:
            allowed = {"_core", *PYTHON_SHARED}
        elif room in PYTHON_ROOMS:
            allowed = {room, *PYTHON_ROOMS[room], *PYTHON_SHARED}
        else:
            faults.append(f"{path}: {room} is no room of python/octavo/")
            continue
        for node, module in imports(tree):
            if module.startswith("."):
                faults.append(f"{path}:{node.lineno}: write import {module} as octavo...")
            elif module == "octavo":
                if "octavo" not in allowed:
                    faults.append(f"{path}:{node.lineno}: {room} must not import octavo itself")
            elif module.startswith("octavo."):
                target = module.split(".")[1]
                known = target in PYTHON_ROOMS or target in PYTHON_SHARED or target == "_core"
                if target not in allowed if known else "octavo" not in allowed:
                    faults.append(f"{path}:{node.lineno}: {room} must not import {module}")
    return faults


def eager_imports(files: Files) -> list[str]:
    """NumPy is the only run-time dependency: the rest is imported by the function that needs it."""
    return [
        f"{path}:{node.lineno}: import {module} inside the function that needs it"
        for path, _, tree in python(files)
        for node, module in imports(ast.Module([*top_level(tree)], []))
        if module.split(".")[0] not in {*PYTHON_EAGER, "octavo", ""}
    ]


def top_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Imports that run when the module is imported; not those for the type checker."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (s for n in node.orelse for s in top_level(ast.Module([n], [])))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from top_level(node)


def hacking_is_true(files: Files) -> list[str]:
    """HACKING.md names every room, and no file that is not there. <...> stands for a name."""
    text = files.get("HACKING.md", "")
    rooms = [f"csrc/{room}/" for room in {name.split("/")[0] for name, _, _ in cpp(files)}]
    rooms += [
        f"python/octavo/{room}/"
        for room in {name.split("/")[0] for name, _, _ in python(files) if "/" in name}
    ]
    faults = [f"HACKING.md does not name {room}" for room in rooms if room not in text]
    for name in re.findall(r"`((?:csrc|python|tests|docs|bench|\.ci)/[^`\s]*)`", text):
        pattern = re.compile(re.sub(r"<[a-z]+>", "[a-z0-9_]+", re.escape(name).replace(r"\<", "<")))
        if not any(pattern.match(path) for path in files):
            faults.append(f"HACKING.md names {name}, which is not there")
    return faults


def isa_list(files: Files) -> list[tuple[str, str]]:
    """(name, processors) of each ISA in CMakeLists.txt, best first."""
    return re.findall(r"^ *octavo_isa\((\w+) +(\w+)", files["CMakeLists.txt"], re.MULTILINE)


def every_isa_has_its_file(files: Files) -> list[str]:
    return [
        f"CMakeLists.txt lists {name}, csrc/isa/{name}.h is not there"
        for name, _ in isa_list(files)
        if f"csrc/isa/{name}.h" not in files
    ]


def every_family_has_a_native_test(files: Files) -> list[str]:
    """A file of tests/native calls the family's kernels, through the table or through its driver."""
    tests = "\n".join(text for path, text in files.items() if path.startswith("tests/native/"))
    return [
        f"no file of tests/native tests the kernels of {family}"
        for family in re.findall(
            r"^OCTAVO_KERNEL\((\w+),", files["csrc/kernels/kernels.inc"], re.MULTILINE
        )
        if not re.search(rf'\b{family}->|"drivers/{family}\.h"', tests)
    ]


class Rule(NamedTuple):
    check: Callable[[Files], list[str]]
    violations: list[Files]


RULES = [
    Rule(
        include_direction,
        [
            {"csrc/drivers/gemm.cpp": '#include "ops/linear.h"'},
            {"csrc/ops/linear.cpp": '#include "bindings/ndarray.h"'},
            {"csrc/kernels/gemm.h": '#include "runtime/dispatch.h"'},
            {"csrc/runtime/thread_pool.cpp": '#include "kernels/table.h"'},
            {"csrc/bindings/module.cpp": '#include "isa/avx2.h"'},
            {"csrc/drivers/gemm.cpp": '#include "gemm.h"'},
            {"csrc/tools/gemm.cpp": ""},
        ],
    ),
    Rule(isa_border, [{"csrc/drivers/gemm.cpp": '#include "isa/features.h"'}]),
    Rule(pybind_room, [{"csrc/ops/linear.h": "#include <pybind11/pybind11.h>"}]),
    Rule(reference_is_for_tests, [{"csrc/ops/linear.h": '#include "reference/gemm.h"'}]),
    Rule(
        bare_rooms,
        [
            {"csrc/isa/avx2.h": "#include <algorithm>"},
            {"csrc/kernels/gemm.h": "#include <immintrin.h>"},
            {"csrc/kernels/gemm.h": "int m = std::min(a, b);"},
        ],
    ),
    Rule(
        intrinsics,
        [
            {"csrc/drivers/gemm.cpp": "auto v = _mm512_setzero_si512();"},
            {"csrc/drivers/gemm.cpp": "_mm_prefetch(p, _MM_HINT_T0);"},
            {"csrc/kernels/gemm.h": "acc = vdotq_s32(acc, a, b);"},
            {"csrc/kernels/gemm.h": "auto v = vld1q_u8(p);"},
            {"csrc/kernels/gemm.h": "int32x4_t acc;"},
            {"csrc/runtime/thread_pool.cpp": "__builtin_ia32_pause();"},
        ],
    ),
    Rule(
        architecture_conditions,
        [
            {"csrc/drivers/gemm.cpp": "#if defined(__x86_64__)"},
            {"csrc/kernels/gemm.h": "#ifdef __ARM_NEON"},
            {"csrc/runtime/thread_pool.cpp": "#if FOO || \\\n defined(__aarch64__)"},
        ],
    ),
    Rule(vague_names, [{"csrc/ops/utils.h": ""}, {"python/octavo/array/_common.py": ""}]),
    Rule(
        import_direction,
        [
            {"python/octavo/array/qtensor.py": "from octavo.nn.linear import Linear"},
            {"python/octavo/array/qtensor.py": "import octavo"},
            {"python/octavo/nn/linear.py": "def f():\n    from octavo import graph"},
            {"python/octavo/nn/linear.py": "from . import graph"},
            {"python/octavo/nn/linear.py": "from octavo import QTensor"},
            {"python/octavo/runtime.py": "from octavo.array import qtensor"},
            {"python/octavo/tools/x.py": ""},
        ],
    ),
    Rule(
        eager_imports,
        [
            {"python/octavo/graph/onnx_reader.py": "import onnx"},
            {
                "python/octavo/cli/report.py": "try:\n    from rich import table\nexcept ImportError: 0"
            },
        ],
    ),
    Rule(
        hacking_is_true,
        [
            {"csrc/tools/gemm.cpp": "", "HACKING.md": "no rooms"},
            {"HACKING.md": "a kernel is one file, `csrc/kernels/<family>.h`"},
        ],
    ),
    Rule(every_isa_has_its_file, [{"CMakeLists.txt": 'octavo_isa(avx9 x86 "-mavx9")'}]),
    Rule(
        every_family_has_a_native_test,
        [
            {"csrc/kernels/kernels.inc": "OCTAVO_KERNEL(sort, SortKernels)"},
            {
                "csrc/kernels/kernels.inc": "OCTAVO_KERNEL(sort, SortKernels)",
                "tests/native/test_sort.cpp": "table.resort->run();",
            },
        ],
    ),
]


@pytest.fixture(scope="module")
def tree() -> Files:
    found = [ROOT / "CMakeLists.txt", ROOT / "HACKING.md", *(ROOT / ".ci").glob("*")]
    for top in ("csrc", "python/octavo", "tests", "bench", "docs"):
        found += (ROOT / top).rglob("*")
    text = {".cpp", ".h", ".inc", ".py", ".pyi", ".md", ".txt", ".sh"}
    return {
        p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8")
        for p in found
        if p.is_file() and (p.suffix in text or p.parent.name == ".ci")
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_tree_keeps_the_rule(rule: Rule, tree: Files) -> None:
    assert rule.check(tree) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_rule_catches_what_it_forbids(rule: Rule) -> None:
    for violation in rule.violations:
        assert rule.check(violation), violation


def test_the_rules_see_the_whole_tree(tree: Files) -> None:
    assert {room for _, room, _ in cpp(tree)} >= {"bindings", "ops", "drivers", "kernels", "isa"}
    assert {room for _, room, _ in python(tree)} >= {"array", "nn", "cli", "runtime"}
    assert sum(len(includes(text)) for _, _, text in cpp(tree)) > 30


# --- one global symbol for each kernel object ----------------------------------------------------


def symbol_faults(nm_output: str, expected: str) -> list[str]:
    """Faults in `nm --defined-only` of a kernel object, which defines `expected` and nothing else.

    A weak symbol would be code for one ISA that the linker may put in place of common code.
    """
    symbols = [line.split()[-2:] for line in nm_output.splitlines() if line.strip()]
    visible = [f"{kind} {name.lstrip('_')}" for kind, name in symbols if not kind.islower()]
    visible += [f"{kind} {name}" for kind, name in symbols if kind in "uvw"]
    wanted = [f"{kind} {expected}" for kind in "RDS"]
    if len(visible) == 1 and visible[0] in wanted:
        return []
    return [f"global or weak symbols {visible}, expected {expected} alone"]


@pytest.fixture(scope="module")
def kernel_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with every kernel object of this processor; OCTAVO_NATIVE_BUILD names one made."""
    if made := os.environ.get("OCTAVO_NATIVE_BUILD"):
        return Path(made)
    if not shutil.which("cmake") or not shutil.which("nm"):
        pytest.skip("the kernel objects are not checked: cmake or nm is not installed")
    build = tmp_path_factory.mktemp("kernels")
    options = ["-DOCTAVO_PYTHON=OFF", "-DOCTAVO_NATIVE_TESTS=ON"]
    subprocess.run(["cmake", "-S", ROOT, "-B", build, *options], check=True)
    subprocess.run(
        ["cmake", "--build", build, "--target", "octavo_kernels", "--parallel", "2"], check=True
    )
    return build


@pytest.mark.slow
def test_each_kernel_object_has_one_global_symbol(kernel_objects: Path, tree: Files) -> None:
    families = re.findall(r"^OCTAVO_KERNEL\((\w+),", tree["csrc/kernels/kernels.inc"], re.MULTILINE)
    isas = re.findall(r"X\((\w+)", (kernel_objects / "isa_list.inc").read_text())
    assert {"scalar", "scalar_odd"} < set(isas) <= {name for name, _ in isa_list(tree)}
    assert "gemm" in families
    nm = os.environ.get("NM", "nm")
    for isa in isas:
        for family in families:
            folder = kernel_objects / f"CMakeFiles/kernel_{isa}_{family}.dir"
            (made,) = folder.rglob("*.o")
            output = subprocess.run(
                [nm, "--defined-only", made], check=True, capture_output=True, text=True
            ).stdout
            assert symbol_faults(output, f"octavo_{isa}_{family}") == []


def test_the_symbol_check_catches_weak_and_extra_symbols() -> None:
    good = "0000000000000000 R octavo_avx2_gemm\n0000000000000010 t local\n"
    assert symbol_faults(good, "octavo_avx2_gemm") == []
    for more in ("W _ZSt3minIiET_S0_S0_", "V _ZTV1A", "T gemm_run", "u _ZZ1fvE1x"):
        assert symbol_faults(f"{good}0000000000000020 {more}\n", "octavo_avx2_gemm")
    assert symbol_faults("", "octavo_avx2_gemm")
    assert symbol_faults(good, "octavo_avx2_pack")
