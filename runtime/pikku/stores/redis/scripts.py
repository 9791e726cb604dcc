"""The scripts, joined from one file per operation."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pikku._error_info import ErrorInfo
from pikku.errors import CorruptStateError

# Raised whenever what is stored changes its form.
SCHEMA = 3

_SERVER_TIME = """local argc = #ARGV
local stamp
local function now()
  if not stamp then
    local t = call('TIME')
    stamp = t[1] * 1000000 + t[2]
  end
  return stamp
end
"""
# For tests: the clock is the caller's, and its time the last argument.
_GIVEN_TIME = """local argc = #ARGV - 1
local stamp = tonumber(ARGV[#ARGV])
local function now() return stamp end
"""


class Script(NamedTuple):
    """A script and the name by which a server that has it knows it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        return cls(text, hashlib.sha1(text.encode()).hexdigest())


class Scripts(NamedTuple):
    """`start` takes new work and is refused by a server that is full; `work` lets what is under
    way go on; `beat`, `load` and `examine` stand alone."""

    start: Script
    work: Script
    beat: Script
    load: Script
    examine: Script


@cache
def scripts(*, flags: bool, given_time: bool) -> Scripts:
    """The scripts for a server.

    Args:
        flags: whether it knows script flags (Redis 7.0 and later, Valkey).
        given_time: whether callers bring their own time.
    """
    folder = files("pikku.stores.redis") / "ops"

    def read(name: str) -> str:
        return (folder / f"{name}.lua").read_text(encoding="utf-8")

    clock = _GIVEN_TIME if given_time else _SERVER_TIME
    broken = ErrorInfo.of(CorruptStateError("its record in the store cannot be read"))
    prelude = read("_prelude").replace("--@clock\n", clock)
    prelude = prelude.replace("--@corrupt", f"local CORRUPT = [==[e={broken.to_json()}]==]")
    names = sorted(each.name.removesuffix(".lua") for each in folder.iterdir())
    ops = "\n".join(read(name) for name in _ordered(names))
    body = "\n".join((prelude, ops, read("_main")))
    alone = {
        name: "\n".join((read(name).replace("--@clock\n", "local call = redis.call\n" + clock),))
        for name in ("_beat", "_load", "_examine")
    }

    def made(text: str, said: str) -> Script:
        return Script.of(f"#!lua{said}\n{text}" if flags else text)

    return Scripts(
        made(body, ""),
        made(body, " flags=allow-oom"),
        made(alone["_beat"], " flags=allow-oom"),
        made(alone["_load"], " flags=no-writes"),
        made(alone["_examine"], " flags=no-writes"),
    )


def _ordered(names: list[str]) -> list[str]:
    """First those that define what others use."""
    first = ["advertise", "create_run", "delete_run", "release_run", "commit", "requeue_run"]
    return [*first, *(name for name in names if name[0] != "_" and name not in first)]
