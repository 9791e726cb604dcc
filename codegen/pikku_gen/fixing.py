"""`pikku-gen --fix`: what a diagnostic can put right by itself, written into the sources."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pikku_gen.model.places import Span
from pikku_gen.pipeline import run
from pikku_gen.scan.fixes import replaced
from pikku_gen.write import write_atomically


def fix(folder: Path) -> int:
    """Mends the sources of the project in `folder`; returns in how many places."""
    fixes: dict[str, dict[Span, str]] = {}
    for found in run(folder, check=True).diagnostics:
        if found.fix:
            fixes.setdefault(found.place.path, {})[found.place.span] = found.fix
    return sum(_fix_file(folder / path, wanted) for path, wanted in sorted(fixes.items()))


def _fix_file(path: Path, wanted: dict[Span, str]) -> int:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        fixed, count = replaced(path.read_bytes(), wanted)
        if count:
            real = path.resolve()
            write_atomically(real, fixed)
            os.chmod(real, mode)
    except OSError:
        return 0
    return count
