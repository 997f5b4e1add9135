"""The examples in docstrings are true, and no public name is without one."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import octavo as oc

# Commands are tested by what they print, in tests/cli.
MODULES = ["octavo"] + [
    info.name
    for info in pkgutil.walk_packages(oc.__path__, "octavo.")
    if not info.name.startswith(("octavo.cli", "octavo.__main__", "octavo._core"))
]
PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
EXTENSION = ["matmul", "pack", "requantize", "PackedMatrix"]
NEED_NO_EXAMPLE = {
    "FallbackWarning",
    "ModelError",
    "UnsupportedOpError",
    "PackedMatrix",
    "__version__",
    "runtime",
}


def run(examples, name):
    runner = doctest.DocTestRunner(verbose=False)
    failures = []
    runner.run(examples, out=failures.append)
    assert not failures, f"{name}:\n" + "".join(failures)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    for examples in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        run(examples, examples.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page(page):
    run(doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, None, 0), page.name)


@pytest.mark.parametrize("name", EXTENSION)
def test_examples_of_the_extension(name):
    text = getattr(oc, name).__doc__
    assert text
    run(doctest.DocTestParser().get_doctest(text, {}, name, None, 0), name)


@pytest.mark.parametrize("name", sorted(set(oc.__all__) - NEED_NO_EXAMPLE))
def test_every_public_name_has_an_example(name):
    assert doctest.DocTestParser().get_examples(getattr(oc, name).__doc__ or ""), name
