"""Compiles the programs of native/ when they are asked for, into benchmarks/.build/, which git ignores.

Invariant: a program is compiled again when any source is newer than it.
"""

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.failure import BenchmarkError

NATIVE = Path(__file__).parent / "native"
BUILT = Path(__file__).parent / ".build"
SOURCES = {
    "load": ("load.c", "connections.c", "frames.c"),
    "floor": ("floor.c", "frames.c"),
    "frames.so": ("frames.c",),
}
"""Each program, and the library for the tests of the parser, with the files it is made of."""
NO_COMPILER = (
    "no C compiler: install one (Debian, Ubuntu: gcc; Fedora: gcc; Alpine: build-base; macOS is not supported)"
)


def compiler() -> str | None:
    """Return the C compiler's path: `CC`, or the usual names; None where there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def build(name: str, folder: Path = BUILT) -> Path:
    """Return the path of a program, compiled now if need be; raise BenchmarkError where it cannot be."""
    program = folder / name
    newest = max(path.stat().st_mtime for path in NATIVE.iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return program
    found = compiler()
    if found is None:
        raise BenchmarkError(NO_COMPILER)
    folder.mkdir(parents=True, exist_ok=True)
    # Under a name of its own first: another process may be compiling, or running, the same program.
    fresh = folder / f".{name}.{os.getpid()}"
    shared = ["-shared", "-fPIC"] if name.endswith(".so") else []
    command = [found, "-O2", "-std=gnu11", "-Wall", "-Wextra", *shared, "-o", str(fresh)]
    done = subprocess.run(
        [*command, *(str(NATIVE / source) for source in SOURCES[name])], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{name} does not compile:\n{done.stderr}")
    fresh.replace(program)
    return program
