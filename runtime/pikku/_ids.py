"""Identities: run ids, step keys, and the idempotency key of a step."""

from __future__ import annotations

import os
from functools import lru_cache

from pikku.errors import DeclarationError, RunIdError, StepNameError

# Fixed for ever: every invocation id ever given out depends on it.
NAMESPACE = "6f0c2b3e-6a55-5e0b-9c1d-7a1f6b8d2e40"
MAX_RUN_ID = 200
MAX_STEP_NAME = 500


def new_run_id() -> str:
    """A new id of 128 random bits, as 32 hexadecimal digits."""
    return os.urandom(16).hex()


def new_session_id() -> str:
    """The id under which one life of a process holds leases."""
    return os.urandom(8).hex()


def check_run_id(run_id: object) -> str:
    """*run_id* itself, if it can serve as one.

    Raises:
        RunIdError: otherwise.
    """
    if not isinstance(run_id, str):
        raise RunIdError(f"run_id must be a string, not {run_id!r}")
    if not 0 < len(run_id) <= MAX_RUN_ID:
        raise RunIdError(f"run_id has {len(run_id)} characters")
    if not run_id.isprintable() or any(char in "{}| " for char in run_id):
        raise RunIdError(f"run_id {run_id!r} has a character that ids cannot have")
    return run_id


def check_askable(run_id: object) -> str:
    """*run_id* itself, if a store can be asked whether it has such a run.

    Raises:
        RunIdError: if it is no string, or no valid Unicode.
    """
    if not isinstance(run_id, str):
        raise RunIdError(f"run_id must be a string, not {run_id!r}")
    if not is_unicode(run_id):
        raise RunIdError(f"run_id {run_id!r} has a character that ids cannot have")
    return run_id


def is_unicode(text: str) -> bool:
    """Whether *text* can be written as UTF-8: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_reason(reason: object, where: str) -> str:
    """*reason* itself, if it says why.

    Raises:
        DeclarationError: it is no string, blank, or holds what no store keeps.
    """
    if (
        not isinstance(reason, str)
        or not reason.strip()
        or "\0" in reason
        or not is_unicode(reason)
    ):
        raise DeclarationError(f"{where}: the reason is {reason!r}", hint="say why in a few words")
    return reason


def check_step_name(name: object) -> str:
    """*name* itself, if it can name a step.

    Raises:
        StepNameError: if it is no string, empty or longer than 500 characters.
    """
    if type(name) is not str:
        raise StepNameError(f"a step's name must be a string, not {name!r}")
    return _checked_name(name)


@lru_cache(maxsize=8192)
def _checked_name(name: str) -> str:
    if not name.strip():
        raise StepNameError(f"a step's name must not be empty, and this one is {name!r}")
    if len(name) > MAX_STEP_NAME:
        raise StepNameError(f"step name {name[:40]!r}… has {len(name)} characters (at most 500)")
    if "\x00" in name or not name.isprintable():
        raise StepNameError(f"step name {name!r} has an unprintable character")
    return name


def step_key(name: str, ordinal: int) -> str:
    """The key of the *ordinal*-th reach (from 0) of *name* in a run."""
    return f"{name}#{ordinal}" if ordinal else name


def child_run_id(run_id: str, key: str, attempt: int) -> str:
    """The id of the run that one attempt of a step starts: the same in every process.

    It begins with the id of the run at the top of the family and `~`: a store that spreads its runs
    keeps those whose ids are the same up to there in one place.
    """
    root = run_id.partition("~")[0]
    name = invocation_id(run_id, f"{key}\n{attempt}").replace("-", "")
    return f"{root[: MAX_RUN_ID - 33]}~{name}"


def invocation_id(run_id: str, key: str) -> str:
    """The idempotency key of a step: the same over attempts, processes and stores."""
    from uuid import UUID, uuid5

    return str(uuid5(UUID(NAMESPACE), f"{run_id}:{key}"))
