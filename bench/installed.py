"""The scanner on what is installed, as if it were a project: `python -m bench.installed`.

Every Python file of this environment and of Python itself is read with everything that the
generator has: its functions become RPCs and its coroutines workflows, positions are measured, the
bodies are linted. A file ends in facts or in a diagnostic; anything else is a crash, which is told
and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikku_gen.model.facts import TOO_DEEP, Problem
from pikku_gen.reading import quiet
from pikku_gen.scan.bodies import read_bodies
from pikku_gen.scan.declarations import scan_module
from pikku_gen.scan.names import Names
from pikku_gen.scan.symbols import parse, symbols_of_tree
from pikku_gen.scan.text import decode

_PACKAGE = "app_pikku"
_IMPORT = f"\nfrom {_PACKAGE} import pikku_func, pikku_workflow_func\n".encode()
_FUNCTION = re.compile(rb"^(async )?def ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What became of one file: `facts`, the code of a diagnostic, or the words of a crash."""

    path: Path
    size: int
    cpu_s: float
    end: str
    crashed: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench.installed", description=__doc__)
    parser.add_argument("--only", default="", help="files whose path holds this")
    options = parser.parse_args(arguments)
    found: list[Scanned] = []
    for path in installed():
        if options.only in str(path):
            found.append(scan(path))
            if found[-1].crashed:
                print(f"CRASHED {path}: {found[-1].end}", flush=True)
    if not found:
        print(f"no installed file has a path that holds {options.only!r}", file=sys.stderr)
        return 2
    print(table(found))
    return int(any(one.crashed for one in found))


def installed() -> Iterator[Path]:
    """The Python files of the environment's packages, then those of the standard library."""
    packages = Path(sysconfig.get_path("purelib"))
    yield from sorted(packages.rglob("*.py"))
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.relative_to(library).parts:
            yield path


def scan(path: Path) -> Scanned:
    """One file, read as source of a project."""
    data = path.read_bytes()
    data = _FUNCTION.sub(_decorated, data) + _IMPORT
    crashed = False
    start = time.process_time()
    try:
        with quiet():
            end = _end(data)
    except RecursionError:
        end = f"{TOO_DEEP.code} (too deep)"
    except Exception as error:
        end, crashed = f"{type(error).__name__}: {error}"[:200], True
    return Scanned(path, len(data), time.process_time() - start, end, crashed)


def _decorated(found: re.Match[bytes]) -> bytes:
    kind = b"@pikku_workflow_func\n" if found[1] else b"@pikku_func\n"
    return kind + found[0]


def _end(data: bytes) -> str:
    text = decode(data)
    if isinstance(text, Problem):
        return text.code
    tree = parse(text)
    if isinstance(tree, Problem):
        return tree.code
    module = "app.module"
    symbols = symbols_of_tree(tree, module, is_package=False)
    read_bodies(tree, text, module, is_package=False)
    names = Names(module, symbols, _PACKAGE, "app", lambda name: name)
    fact = scan_module(text, symbols, names, located=True)
    if not symbols.bindings:
        raise AssertionError("nothing was read")
    unread = [found.code for found in fact.problems if found.code == "PKG103"]
    return unread[0] if unread else "facts"


def table(found: Sequence[Scanned]) -> str:
    """The counts, the rates, the slowest."""
    ends = Counter("crash" if one.crashed else one.end for one in found)
    cpu = sum(one.cpu_s for one in found)
    size = sum(one.size for one in found)
    each = sorted(one.cpu_s * 1e3 for one in found)
    slowest = max(found, key=lambda one: one.cpu_s)
    lines = [
        f"{len(found):,} files, {size / 2**20:.1f} MB: "
        + ", ".join(f"{count:,} {end}" for end, count in ends.most_common()),
        f"{len(found) / cpu:.0f} files and {size / 2**20 / cpu:.2f} MB per second of CPU; a file"
        f" takes {statistics.median(each):.1f} ms in the median,"
        f" {each[int(len(each) * 0.99)]:.0f} ms at the 99th percentile",
        f"slowest: {slowest.path.name}, {slowest.size / 2**10:.0f} KB, {slowest.cpu_s:.1f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
