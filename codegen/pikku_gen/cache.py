"""What earlier runs read: facts by path, kept while a file's stat or its bytes stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pikku_gen.model.facts import BodiesFact, ScanFact, SymbolsFact
from pikku_gen.model.frozen import freeze, thaw
from pikku_gen.project import SourceFile
from pikku_gen.write import write_atomically

FORMAT: Final = 5
_FOLDER: Final = ".pikku"
_NAME: Final = "scan.json"
_TICK: Final = 50_000_000
_UNSETTLED: Final = (-1, -1)


@dataclass(slots=True)
class Entry:
    """One file: its stamp and digest, and what was read of it so far."""

    stamp: tuple[int, int]
    digest: str
    passed: bool
    """It holds one of the words looked for."""
    scan: object = None
    symbols: object = None
    bodies: object = None


@dataclass(slots=True)
class Cache:
    """The entries of one project; `key` names everything else that facts depend on."""

    path: Path
    key: str
    needles: tuple[str, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    result: dict[str, object] = field(default_factory=dict[str, object])
    """What the last run without an error ended with."""
    dirty: bool = False
    used: set[str] = field(default_factory=set[str])

    def entry(self, file: SourceFile) -> Entry | None:
        """The entry of a file whose stat is as it was."""
        self.used.add(file.path)
        found = self.entries.get(file.path)
        return found if found is not None and found.stamp == file.stamp else None

    def renew(self, file: SourceFile, data: bytes, *, passed: bool | None = None) -> Entry:
        """The entry of a file that was read again; facts stay where the bytes are the same, and so
        does what is known of `passed` where nothing is said."""
        digest = hashlib.sha256(data).hexdigest()
        found = self.entries.get(file.path)
        self.used.add(file.path)
        self.dirty = True
        if found is None or found.digest != digest:
            found = Entry(file.stamp, digest, passed=False)
            self.entries[file.path] = found
        found.stamp = file.stamp if _settled(file.stamp) else _UNSETTLED
        if passed is not None:
            found.passed = passed
        return found

    def holds(self, files: Sequence[SourceFile]) -> bool:
        """True when every file that was read, and no other, is as it was."""
        if not all(self._holds(file.path, file.file, file.stamp) for file in files):
            return False
        folder = self.path.parent.parent
        outside = sorted(self.entries.keys() - {file.path for file in files})
        return all(self._holds(path, folder / path, _stamp(folder / path)) for path in outside)

    def _holds(self, path: str, file: str | Path, stamp: tuple[int, int] | None) -> bool:
        """True where the stat is as it was, or at least the bytes are."""
        found = self.entries.get(path)
        if found is None or stamp is None:
            return False
        if found.stamp != stamp:
            try:
                data = Path(file).read_bytes()
            except OSError:
                return False
            if hashlib.sha256(data).hexdigest() != found.digest:
                return False
            if _settled(stamp):
                found.stamp = stamp
                self.dirty = True
        self.used.add(path)
        return True

    def save(self) -> None:
        """Writes the cache, without what no run used; a folder that refuses is no error."""
        stale = self.entries.keys() - self.used
        if not self.dirty and not stale:
            return
        for path in stale:
            del self.entries[path]
        document = {
            "format": FORMAT,
            "key": self.key,
            "needles": self.needles,
            "result": self.result,
            "files": {
                path: [
                    entry.stamp,
                    entry.digest,
                    entry.passed,
                    entry.scan,
                    entry.symbols,
                    entry.bodies,
                ]
                for path, entry in sorted(self.entries.items())
            },
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        try:
            _ignore(self.path.parent)
            write_atomically(self.path, _sum(body) + body)
        except OSError:
            return


def open_cache(folder: Path, key: str) -> Cache:
    """The cache of the project in `folder`; empty where there is none that fits, or one that is not
    as it was written."""
    path = folder / _FOLDER / _NAME
    cache = Cache(path, key)
    try:
        line, end, body = path.read_bytes().partition(b"\n")
        if line + end != _sum(body):
            return cache
        document = json.loads(body)
        if document["format"] != FORMAT or document["key"] != key:
            return cache
        cache.needles = tuple(document["needles"])
        cache.result = document["result"]
        for name, (stamp, *facts) in document["files"].items():
            cache.entries[name] = Entry((stamp[0], stamp[1]), *facts)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return Cache(path, key)
    return cache


def _sum(body: bytes) -> bytes:
    """The first line of the file: facts are believed, so not a byte of them may have changed."""
    return f'"{hashlib.sha256(body).hexdigest()}"\n'.encode()


def scan_of(entry: Entry) -> ScanFact | None:
    """The scan facts of an entry."""
    return thaw(ScanFact, entry.scan) if entry.scan is not None else None


def symbols_of(entry: Entry) -> SymbolsFact | None:
    """The symbol facts of an entry."""
    return thaw(SymbolsFact, entry.symbols) if entry.symbols is not None else None


def bodies_of(entry: Entry) -> BodiesFact | None:
    """The body facts of an entry."""
    return thaw(BodiesFact, entry.bodies) if entry.bodies is not None else None


def frozen(fact: ScanFact | SymbolsFact | BodiesFact) -> object:
    """Facts as an entry holds them."""
    return freeze(fact)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _settled(stamp: tuple[int, int]) -> bool:
    """False for a file so young that a second write could leave the same stamp."""
    return time.time_ns() - stamp[0] > _TICK


def _ignore(folder: Path) -> None:
    """The folder keeps itself out of version control."""
    os.makedirs(folder, exist_ok=True)
    marker = folder / ".gitignore"
    if not marker.exists():
        marker.write_text("*\n", encoding="utf-8")
