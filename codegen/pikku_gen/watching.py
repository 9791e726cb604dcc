"""`pikku-gen --watch`: the generator again after every burst of edits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import watchfiles

from pikku_gen.inputs import look
from pikku_gen.pipeline import Outcome, run

_FIRST_LOOK_MS: Final = 500

Wait = Callable[[tuple[str, ...]], None]
"""Comes back when something may have happened in one of these folders, and not below them."""
Began = Callable[[tuple[str, ...]], None]
"""Told what happened since the last run; nothing before the first."""
Ended = Callable[[Outcome | OSError, float], None]
"""Told what a run found and did, or why it could not, and how many seconds it took."""


def follow(folder: Path, wait: Wait, began: Began, ended: Ended) -> None:
    """Generates now, and after each wait in which an input of the generator has changed; does not
    come back."""
    changed: tuple[str, ...] | None = ()
    before = look(folder)
    outside: tuple[str, ...] = ()
    failed = False
    while True:
        if changed is not None:
            began(changed)
            start = time.perf_counter()
            outcome = _outcome(folder)
            ended(outcome, time.perf_counter() - start)
            failed = isinstance(outcome, OSError) or outcome.failed
            # A project that cannot be read says nothing of what it reads.
            outside = outside if isinstance(outcome, OSError) else outcome.outside or outside
            before = before.looking_at(look(folder, outside, widely=failed))
        wait(before.folders)
        now = look(folder, outside, widely=failed)
        changed = now.since(before) or None
        before = now


def _outcome(folder: Path) -> Outcome | OSError:
    try:
        return run(folder)
    except OSError as error:  # what was there when it was listed may be gone when it is read
        return error


class Watcher:
    """Waits for the operating system to report a burst of changes."""

    def __init__(self) -> None:
        self._folders: tuple[str, ...] = ()
        self._bursts: Generator[set[watchfiles.main.FileChange], None, None] | None = None

    def __call__(self, folders: tuple[str, ...]) -> None:
        if self._bursts is None or folders != self._folders:
            self._begin(folders)
            return
        while not next(self._bursts):
            pass

    def _begin(self, folders: tuple[str, ...]) -> None:
        """Watches other folders. What happened before that is seen by whoever looks again now."""
        if self._bursts is not None:
            self._bursts.close()
        self._folders = folders
        self._bursts = watchfiles.watch(
            *folders,
            watch_filter=None,
            recursive=False,
            rust_timeout=_FIRST_LOOK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            next(self._bursts)
        except FileNotFoundError:  # a folder has gone since it was listed
            self._bursts = None
