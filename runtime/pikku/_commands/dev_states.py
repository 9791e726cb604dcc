"""What `pikku dev` does next: events in, actions out, and nothing else."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Literal

from pikku._commands.output import how_it_ended

Word = Literal["start", "drain", "check types", "cancel types", "stop generator"]


@dataclass(frozen=True, slots=True)
class Began:
    """The generator is at work."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The generator is done, and waits for the next change."""

    failed: bool


@dataclass(frozen=True, slots=True)
class GeneratorEnded:
    """The generator is gone."""

    code: int


@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """The program is gone."""

    code: int


@dataclass(frozen=True, slots=True)
class TypesEnded:
    """The type check is done."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asks for something."""

    what: Literal["types", "restart"]


@dataclass(frozen=True, slots=True)
class Asked:
    """It is time to stop."""


Event = Began | Generated | GeneratorEnded | ProgramEnded | TypesEnded | Wanted | Asked


@dataclass(frozen=True, slots=True)
class Do:
    """Something for the world."""

    word: Word


@dataclass(frozen=True, slots=True)
class Tell:
    """Something for whoever looks on."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The end; everything has ended before."""

    code: int


Action = Do | Tell | Exit


@dataclass(frozen=True, slots=True)
class State:
    """Where everything is.

    Attributes:
        always_types: check the types after each good generation, unasked.
        due: the program is to begin anew, as soon as the generated package is good and the
            program before it has ended.
        types_due: check the types once more.
        exit_code: what to end with.
    """

    always_types: bool = False
    generator: Literal["at work", "good", "bad", "gone"] = "at work"
    program: Literal["down", "up", "draining"] = "down"
    due: bool = False
    checking: bool = False
    types_due: bool = False
    stopping: bool = False
    exit_code: int = 0


def after(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The state after *event*, and what is to be done."""
    noted, told = _noted(state, event)
    stop: list[Action] = []
    if noted.stopping and not state.stopping:
        if noted.generator != "gone":
            stop.append(Do("stop generator"))
        if noted.checking:
            stop.append(Do("cancel types"))
    settled, done = _settled(noted)
    return settled, (*told, *stop, *done)


def _noted(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    match event:
        case Began():
            return replace(state, generator="at work"), ()
        case Generated(failed=True):
            told = (Tell("the program goes on with the code from before"),)
            return replace(state, generator="bad"), told if state.program == "up" else ()
        case Generated():
            types = state.types_due or state.always_types
            return replace(state, generator="good", due=True, types_due=types), ()
        case Wanted("types"):
            return replace(state, types_due=True), ()
        case Wanted():
            late = state.generator == "bad"
            told = (Tell("the program begins anew when pikku-gen has nothing to complain of"),)
            return replace(state, due=True), told if late else ()
        case TypesEnded():
            return replace(state, checking=False), ()
        case ProgramEnded(code):
            words = _of_the_end(state, code)
            return replace(state, program="down"), (Tell(words),) if words else ()
        case GeneratorEnded(code):
            gone = replace(state, generator="gone")
            if state.stopping:
                return gone, ()
            told = (Tell(f"pikku-gen {how_it_ended(code)}"),)
            return replace(gone, stopping=True, exit_code=max(code, 1)), told
        case Asked():
            return replace(state, stopping=True), ()


def _of_the_end(state: State, code: int) -> str:
    if state.program == "up" and not state.stopping:
        later = "" if state.due else "; it begins anew after the next change"
        return f"the program {how_it_ended(code)}{later}"
    return "" if code in (0, -signal.SIGTERM) else f"the program {how_it_ended(code)}"


def _settled(state: State) -> tuple[State, tuple[Action, ...]]:
    """What follows from where everything is, whatever event led there."""
    if state.stopping:
        if state.program == "up":
            return replace(state, program="draining"), (Do("drain"),)
        if state.program == "down" and state.generator == "gone" and not state.checking:
            return state, (Exit(state.exit_code),)
        return state, ()
    done: list[Action] = []
    if state.due and state.generator == "good" and state.program == "up":
        state = replace(state, program="draining")
        done.append(Do("drain"))
    if state.due and state.generator == "good" and state.program == "down":
        state = replace(state, program="up", due=False)
        done.append(Do("start"))
    if state.types_due and not state.checking:
        state = replace(state, checking=True, types_due=False)
        done.append(Do("check types"))
    return state, tuple(done)
