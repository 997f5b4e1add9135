#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Chores that have a name: `nox -s tests-3.12`, `nox -s lint`, `nox -s stub`."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Install as a user would and run the suite."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and type checks."""
    session.run(".ci/run", "lint", external=True)


@nox.session(default=False)
def stub(session: nox.Session) -> None:
    """Write python/octavo/_core.pyi anew from the module."""
    session.install(".[test]")
    session.run("python", "tests/test_stub.py", "python/octavo/_core.pyi")


@nox.session(default=False)
def ci(session: nox.Session) -> None:
    """Everything that must pass before a merge."""
    session.run(".ci/run", external=True)


if __name__ == "__main__":
    nox.main()
