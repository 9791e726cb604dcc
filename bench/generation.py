"""The generator's cells: `pikku-gen` on a synthesized project, and the import of its package."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .imports import probe
from .projects import change_one_file, synthesize
from .samples import last_words

Metrics = dict[str, float]
MANY, ONE = "many", "one"
_KB = 1024 if sys.platform != "darwin" else 1  # ru_maxrss: kilobytes, bytes on macOS


def generate(data: Path, *, functions: int, with_import: bool) -> list[Metrics]:
    """Cold, unchanged, one file changed; then, if asked, the import of what was generated."""
    many, one = data / MANY, data / ONE
    synthesize(one, ONE, 1)
    pikku_gen(one)  # so that the tool's own byte code is there
    synthesize(many, MANY, functions)

    found = [pikku_gen(many)]
    before = stamps(many / f"{MANY}_pikku")
    found.append(pikku_gen(many))
    if stamps(many / f"{MANY}_pikku") != before:
        raise AssertionError("a second run wrote something")
    change_one_file(many, MANY)
    found.append(pikku_gen(many))
    if stamps(many / f"{MANY}_pikku") == before:
        raise AssertionError("a changed docstring changed nothing")

    if with_import:
        # over a package of one function: what the runtime itself costs is not counted
        found.append(probe(f"import {MANY}_pikku", before=f"import {ONE}_pikku", path=(many, one)))
    return found


def stamps(package: Path) -> dict[str, int]:
    """When each generated file was last written."""
    files = [path for path in package.rglob("*") if path.is_file()]
    if not files:
        raise AssertionError(f"nothing was generated at {package.name}")
    return {str(path.relative_to(package)): path.stat().st_mtime_ns for path in files}


def pikku_gen(project: Path) -> Metrics:
    """One run of the command in a project, with its CPU and its peak memory."""
    env = {**os.environ, "HOME": str(project), "XDG_CACHE_HOME": str(project / ".cache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    said = project.with_suffix(".log")
    with said.open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "pikku_gen"], cwd=project, env=env, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f"pikku-gen ended with {process.returncode}: {last_words(said.read_text('utf-8'))}"
        )
    return {
        "cpu_ms": (used.ru_utime + used.ru_stime) * 1e3,
        "wall_s": wall,
        "peak_mb": used.ru_maxrss * _KB / 2**20,
    }
