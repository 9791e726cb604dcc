"""The generated package on disk: compared, written atomically, pruned by its own manifest."""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.model.places import Place
from pikku_gen.project import HEADER, MANIFEST

_SHOWN_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Changes:
    """What separates the folder from the rendered package."""

    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    foreign: tuple[str, ...] = ()
    """Files in the way that pikku-gen did not write."""

    @property
    def stale(self) -> bool:
        """True when there is something to do."""
        return bool(self.written or self.removed)


NO_CHANGES: Final = Changes()


def compare(folder: Path, rendered: Mapping[str, str]) -> Changes:
    """What a write would do; nothing is touched."""
    written: list[str] = []
    foreign: list[str] = []
    for path, text in rendered.items():
        old = _bytes(folder / path)
        if old == text.encode():
            continue
        written.append(path)
        if old is not None and not _is_ours(path, old):
            foreign.append(path)
    removed = [
        path
        for path in _emitted(folder)
        if path not in rendered and _is_ours(path, _bytes(folder / path))
    ]
    unchanged = len(rendered) - len(written)
    return Changes(tuple(written), tuple(removed), unchanged, tuple(foreign))


def apply(folder: Path, rendered: Mapping[str, str], changes: Changes) -> None:
    """Writes what differs, the manifest last, and removes what is no longer emitted."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(changes.written, key=lambda path: (path == MANIFEST, path)):
        write_atomically(folder / path, rendered[path].encode())
    for path in changes.removed:
        (folder / path).unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def refusals(
    folder: Path, changes: Changes, shown: Callable[[Path], str]
) -> tuple[Diagnostic, ...]:
    """A diagnostic for each file that is in the way."""
    return tuple(
        diagnostic("PKG402", Place(shown(folder / path)), path) for path in changes.foreign
    )


def short_diff(folder: Path, rendered: Mapping[str, str], changes: Changes, shown: str) -> str:
    """The differences, a few lines for each file."""
    blocks: list[str] = []
    for path in changes.written:
        old = _bytes(folder / path)
        before = old.decode(errors="replace").splitlines() if old is not None else []
        after = rendered[path].splitlines()
        name = f"{shown}/{path}"
        origin = name if old is not None else "/dev/null"
        lines = list(difflib.unified_diff(before, after, origin, name, lineterm="", n=1))
        more = len(lines) - _SHOWN_LINES
        if more > 0:
            lines = [*lines[:_SHOWN_LINES], f"… {more} more lines"]
        blocks.append("\n".join(lines))
    blocks += [f"--- {shown}/{path}\n+++ /dev/null" for path in changes.removed]
    return "\n".join(blocks) + "\n"


def _emitted(folder: Path) -> list[str]:
    """The files that the manifest of the last run names, and that are still there."""
    data = _bytes(folder / MANIFEST)
    try:
        document: object = json.loads(data) if data else None
    except ValueError:
        return []
    files: object = (
        cast("dict[str, object]", document).get("files") if isinstance(document, dict) else None
    )
    if not isinstance(files, list):
        return []
    return [
        path
        for path in cast("list[object]", files)
        if isinstance(path, str) and _is_inside(path) and os.path.isfile(folder / path)
    ]


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\\" not in path


def _is_ours(path: str, data: bytes | None) -> bool:
    if data is None:
        return False
    if path == MANIFEST:
        return b'"manifest":' in data
    return data.startswith(HEADER.encode()) or not data.strip()


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
