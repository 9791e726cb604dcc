"""What `pikku dev` does next, in every order in which things can happen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import cache

import pytest

from pikku._commands.dev_states import (
    Action,
    Asked,
    Began,
    Do,
    Event,
    Exit,
    Generated,
    GeneratorEnded,
    ProgramEnded,
    State,
    Tell,
    TypesEnded,
    Wanted,
    after,
)


@dataclass(frozen=True)
class World:
    """What is really so, counted from actions and events alone."""

    generator: bool = True
    generating: bool = True
    good: bool = False
    program: bool = False
    draining: bool = False
    stale: bool = True
    """The program has not begun since the last good generation, or wish."""
    checking: bool = False
    asked: bool = False
    exited: bool = False

    def possible(self) -> list[Event]:
        """What may happen next."""
        if self.exited:
            return []
        events: list[Event] = [Wanted("types"), Wanted("restart")]
        if not self.asked:
            events.append(Asked())
        if self.generator:
            events.append(GeneratorEnded(0))
            if self.generating:
                events += [Generated(True), Generated(False)]
            else:
                events.append(Began())
        if self.program:
            events += [ProgramEnded(0), ProgramEnded(1)]
        if self.checking:
            events.append(TypesEnded())
        return events

    def happened(self, event: Event) -> World:
        match event:
            case Began():
                return replace(self, generating=True)
            case Generated(failed):
                stale = self.stale or not failed
                return replace(self, generating=False, good=not failed, stale=stale)
            case GeneratorEnded():
                return replace(self, generator=False, generating=False, good=False)
            case ProgramEnded():
                return replace(self, program=False, draining=False)
            case TypesEnded():
                return replace(self, checking=False)
            case Wanted("restart"):
                return replace(self, stale=True)
            case Asked():
                return replace(self, asked=True)
            case _:
                return self

    def did(self, action: Action) -> World:
        """The world after an action, which has to be one that makes sense in it."""
        assert not self.exited, "something is done after the end"
        match action:
            case Do("start"):
                assert not self.program, "two programs at once"
                assert self.good, "a program is started on a package that is not whole"
                assert not self.generating
                assert self.stale, "a program is started again though nothing has changed"
                assert not self.asked and self.generator, "a program is started while stopping"
                return replace(self, program=True, stale=False)
            case Do("drain"):
                assert self.program and not self.draining, "asked twice to end"
                return replace(self, draining=True)
            case Do("check types"):
                assert not self.checking, "two type checks at once"
                return replace(self, checking=True)
            case Do("cancel types"):
                assert self.checking
                return self
            case Do("stop generator"):
                assert self.generator
                return self
            case Exit():
                assert not (self.generator or self.program or self.checking), "an orphan"
                return replace(self, exited=True)
            case _:
                return self

    def at_rest(self) -> None:
        """What has to be so once all that follows from an event is done."""
        if self.asked or not self.generator:
            assert not self.program or self.draining, "nobody asks the program to end"
            over = not (self.generator or self.program or self.checking)
            assert self.exited == over, "it neither waits for anything nor ends"
        elif self.good and not self.generating and self.stale:
            assert self.program and self.draining, "a good generation is left without a program"


@cache
def everything() -> list[tuple[State, World, Event, tuple[Action, ...]]]:
    """Each step from each state that can be reached."""
    steps: list[tuple[State, World, Event, tuple[Action, ...]]] = []
    first = [(State(always_types=always), World()) for always in (False, True)]
    seen = set(first)
    left = deque(first)
    while left:
        state, world = left.popleft()
        for event in world.possible():
            following, actions = after(state, event)
            steps.append((state, world, event, actions))
            now = world.happened(event)
            for action in actions:
                now = now.did(action)
            now.at_rest()
            if (following, now) not in seen:
                seen.add((following, now))
                left.append((following, now))
    return steps


def test_in_any_order_of_events_no_two_run_at_once_none_is_forgotten_and_none_outlives() -> None:
    assert len(everything()) > 500


def test_from_every_state_asking_leads_to_the_end_once_all_that_lives_has_ended() -> None:
    for state, world, event, _ in everything():
        if world.exited or not isinstance(event, Asked):
            continue
        now, real = state, world
        waiting: deque[Event] = deque([Asked()])
        for _ in range(8):
            following = waiting.popleft()
            now, actions = after(now, following)
            real = real.happened(following)
            for action in actions:
                real = real.did(action)
            ends: list[Event] = [
                *([GeneratorEnded(0)] if real.generator else []),
                *([ProgramEnded(0)] if real.program else []),
                *([TypesEnded()] if real.checking else []),
            ]
            if not ends:
                break
            waiting = deque(ends)
        assert real.exited


def test_a_program_that_ended_by_itself_begins_only_after_a_change_or_a_wish() -> None:
    for state, world, event, actions in everything():
        if isinstance(event, ProgramEnded) and not world.draining and not world.stale:
            assert Do("start") not in actions
            told = [action.text for action in actions if isinstance(action, Tell)]
            stopping = world.asked or not world.generator
            assert stopping or told == [
                f"the program ended with {event.code}; it begins anew after the next change"
            ]
            assert state.program == "up"


def played(*events: Event, state: State | None = None) -> list[Action]:
    """The actions that follow on the last of these events."""
    now = state or State()
    actions: tuple[Action, ...] = ()
    for event in events:
        now, actions = after(now, event)
    return list(actions)


GOOD, BAD = Generated(False), Generated(True)
UP = (GOOD,)
CHANGED = (Began(), GOOD)


@pytest.mark.parametrize(
    ("events", "actions"),
    [
        pytest.param([GOOD], [Do("start")], id="the first generation starts the program"),
        pytest.param([BAD], [], id="a failed one does not"),
        pytest.param([*UP, Began()], [], id="a change alone leaves it as it is"),
        pytest.param([*UP, *CHANGED], [Do("drain")], id="a good generation asks it to end"),
        pytest.param(
            [*UP, *CHANGED, ProgramEnded(0)], [Do("start")], id="once ended, it begins anew"
        ),
        pytest.param([*UP, *CHANGED, *CHANGED], [], id="a second change while it drains waits"),
        pytest.param(
            [*UP, *CHANGED, Began(), ProgramEnded(0)], [], id="it does not begin half-way"
        ),
        pytest.param(
            [*UP, *CHANGED, Began(), ProgramEnded(0), GOOD], [Do("start")], id="but after it"
        ),
        pytest.param(
            [*UP, *CHANGED, Began(), BAD, ProgramEnded(0)], [], id="and not on what is broken"
        ),
        pytest.param(
            [*UP, Began(), BAD],
            [Tell("the program goes on with the code from before")],
            id="a failed one leaves it up",
        ),
        pytest.param(
            [*UP, ProgramEnded(1)],
            [Tell("the program ended with 1; it begins anew after the next change")],
            id="a crash is told",
        ),
        pytest.param(
            [*UP, ProgramEnded(-9)],
            [Tell("the program was ended by SIGKILL; it begins anew after the next change")],
            id="a kill is told",
        ),
        pytest.param([*UP, ProgramEnded(1), *CHANGED], [Do("start")], id="a change ends the pause"),
        pytest.param(
            [*UP, ProgramEnded(1), Wanted("restart")], [Do("start")], id="a wish does, too"
        ),
        pytest.param([*UP, Wanted("restart")], [Do("drain")], id="a wish begins it anew"),
        pytest.param([GOOD, Wanted("types")], [Do("check types")], id="types on request"),
        pytest.param(
            [GOOD, Wanted("types"), Wanted("types")], [], id="no second check beside the first"
        ),
        pytest.param(
            [GOOD, Wanted("types"), Wanted("types"), TypesEnded()],
            [Do("check types")],
            id="but after it",
        ),
        pytest.param([GOOD, Asked()], [Do("stop generator"), Do("drain")], id="all are stopped"),
        pytest.param(
            [GOOD, Asked(), GeneratorEnded(0), ProgramEnded(0)], [Exit(0)], id="and then the end"
        ),
        pytest.param(
            [GOOD, GeneratorEnded(1)],
            [Tell("pikku-gen ended with 1"), Do("drain")],
            id="without a generator there is nothing to do",
        ),
        pytest.param(
            [GOOD, GeneratorEnded(2), ProgramEnded(0)], [Exit(2)], id="and it is said by the code"
        ),
    ],
)
def test_what_follows(events: list[Event], actions: list[Action]) -> None:
    assert played(*events) == actions


def test_types_are_checked_after_every_generation_if_that_is_wanted() -> None:
    state = State(always_types=True)

    assert played(GOOD, state=state) == [Do("start"), Do("check types")]
    assert played(BAD, state=state) == []
