"""Two step graphs of one workflow compared, by the rule of a replay.

A run goes on under the new code if that asks for each of its recorded steps: under the same name,
with the same kind and target, and without first waiting for something that is not recorded.
Conditions are not part of a graph: a branch that is still there is taken to be taken as before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pikku_gen.diff.edits import Edit
from pikku_gen.diff.steps import (
    Node,
    Part,
    PartKind,
    Step,
    Steps,
    may_be_the_same,
    patches_of,
    steps_of,
)

_DECIDES: Final[frozenset[PartKind]] = frozenset(
    {"choice", "loop", "except", "else", "finally", "unknown"}
)
_INTO: Final[Mapping[PartKind, str]] = {
    "choice": "under a condition",
    "loop": "in a loop",
    "except": "in an `except`",
    "else": "in an `else`",
    "finally": "in a `finally`",
    "unknown": "in a part that cannot be followed",
}
_KINDS: Final = {
    "rpc": "a call of a function",
    "inline": "an inline step",
    "child": "a child run",
    "side_effect": "a recorded value",
}


def compare_graphs(
    old: Sequence[Node], new: Sequence[Node]
) -> tuple[list[Edit], list[tuple[Step, Step]]]:
    """The edits between two graphs, and the steps that are in both."""
    before, after = patches_of(old), patches_of(new)
    gone = sorted(before - after)
    comparison = _Comparison(
        steps_of(old, dict.fromkeys(gone, True)),
        steps_of(new, dict.fromkeys(after - before, False)),
    )
    edits = [_guard_removed(patch) for patch in gone]
    edits += [_guard_added(patch) for patch in sorted(after - before)]
    edits += comparison.edits()
    return edits, comparison.pairs


class _Comparison:
    """The steps of two graphs, matched."""

    def __init__(self, old: Steps, new: Steps) -> None:
        self._old = old
        self._new = new
        self._to_new: dict[int, int] = {}
        self._to_old: dict[int, int] = {}
        self._renamed: set[int] = set()
        self._match_names()
        self._match_exits()
        self._match_renamed()

    @property
    def pairs(self) -> list[tuple[Step, Step]]:
        """The steps that are in both, old and new."""
        return [
            (self._old.steps[one], self._new.steps[other])
            for one, other in sorted(self._to_new.items())
        ]

    def edits(self) -> Iterator[Edit]:
        """Every edit, in the order of the new code."""
        found: list[tuple[int, Edit]] = []
        for step in self._new.steps:
            found += [(step.index, edit) for edit in self._about(step)]
        found += self._ways()
        found += self._swallowed()
        yield from (edit for _, edit in sorted(found, key=lambda each: each[0]))
        yield from self._removed()

    # --- matching

    def _pair(self, one: Step, other: Step) -> None:
        self._to_new[one.index] = other.index
        self._to_old[other.index] = one.index

    def _match_names(self) -> None:
        """By name, the first to the first: as keys are given."""
        waiting: defaultdict[str, list[Step]] = defaultdict(list)
        for step in self._old.steps:
            if step.is_asked_for:
                waiting[step.name].append(step)
        for step in self._new.steps:
            if step.is_asked_for and waiting[step.name]:
                self._pair(waiting[step.name].pop(0), step)

    def _match_exits(self) -> None:
        """Exits have no names: those that wait for the same, then those in the same place."""
        for alike in (self._waits_alike, self._same_place):
            for step in self._unmatched_new():
                exits = [one for one in self._unmatched_old() if _same_exit(one, step)]
                found = next((one for one in exits if alike(one, step)), None)
                if found is not None:
                    self._pair(found, step)

    def _match_renamed(self) -> None:
        for step in self._unmatched_new():
            for one in self._unmatched_old():
                if not step.is_asked_for or not one.is_asked_for:
                    continue
                was_mapped = _plain(one.name) == _plain(step.name)
                same = (one.kind, one.target) == (step.kind, step.target)
                alike = _kinds(one.way) == _kinds(step.way)
                if was_mapped or (same and alike and self._same_place(one, step)):
                    self._pair(one, step)
                    self._renamed.add(step.index)
                    break

    def _waits_alike(self, one: Step, step: Step) -> bool:
        before = {self._to_new.get(each) for each in one.waits} - {None}
        return before == {each for each in step.waits if each in self._to_old}

    def _same_place(self, one: Step, step: Step) -> bool:
        """True with as many matched steps in front of it."""
        before = sum(each < one.index for each in self._to_new)
        return before == sum(each < step.index for each in self._to_old)

    def _unmatched_old(self) -> list[Step]:
        return [step for step in self._old.steps if step.index not in self._to_new]

    def _unmatched_new(self) -> list[Step]:
        return [step for step in self._new.steps if step.index not in self._to_old]

    # --- one step of the new code

    def _about(self, step: Step) -> Iterator[Edit]:
        one = self._old_of(step)
        held_up = self._held_up_by(step)
        if one is None:
            yield self._added(step, held_up)
            return
        if step.index in self._renamed:
            yield _renamed(one, step)
        elif one.kind != step.kind:
            yield _kind_changed(one, step)
        elif one.target != step.target:
            yield _target_changed(one, step)
        elif one.detached != step.detached:
            yield _detached(step)
        if one.undo != step.undo:
            yield _undo_changed(one, step)
        if held_up:
            yield self._in_front(one, step, held_up[0])
        if step.kind == "unknown":
            yield Edit(
                "safe",
                "unknown",
                f"{step.shown} is compared by name only: what it does cannot be followed",
                at=step.at,
            )

    def _old_of(self, step: Step) -> Step | None:
        index = self._to_old.get(step.index)
        return None if index is None else self._old.steps[index]

    def _held_up_by(self, step: Step) -> list[Step]:
        """The recorded steps that the new code asks for only behind this one, and the old one did
        not."""
        if self._is_out_of_reach(step):
            return []
        known = self._to_old.get(step.index)
        delays = not self._is_in_a_new_branch(step)
        return [
            each
            for each in self._new.steps
            if each.index != step.index
            and each.is_asked_for
            and (one := self._old_of(each)) is not None
            and (
                (step.index in each.waits and (known is None or known not in one.waits))
                or (step.index in each.again and (known is None or known not in one.follows))
                or (
                    delays
                    and step.index in each.races
                    and (known is None or known not in one.follows | one.races)
                )
            )
        ]

    def _is_in_a_new_branch(self, step: Step) -> bool:
        """True in a branch more of a race that had two before: it may only be over earlier."""
        races = _races(step.way)
        for depth, part in enumerate(races):
            before: set[Part] = set()
            is_new = True
            for each in self._new.steps:
                around = _races(each.way)[depth : depth + 1]
                one = self._old_of(each)
                if one is not None and [race.number for race in around] == [part.number]:
                    before |= set(_races(one.way)[depth : depth + 1])
                    is_new = is_new and around != [part]
            if is_new and len(before) > 1:
                return True
        return False

    def _is_out_of_reach(self, step: Step) -> bool:
        """True in a handler of what used to end the run: no run in flight is there."""
        for part in step.way:
            if part.kind != "except":
                continue
            tried = [
                one
                for each in self._new.steps
                if Part("try", part.number) in each.way and (one := self._old_of(each)) is not None
            ]
            if not any(one.is_inside("try") or one.is_inside("except") for one in tried):
                return True
        return False

    def _added(self, step: Step, held_up: Sequence[Step]) -> Edit:
        what = "an early " if step.kind == "end" else "step " if step.kind != "unknown" else ""
        if held_up:
            first = held_up[0].shown
            return Edit(
                "needs patched",
                "added",
                f"{what}{step.shown} was added before {first}, which runs may have recorded",
                _guard(f"{step.name} before {held_up[0].name}"),
                step.at,
            )
        clash = self._clash(step)
        if clash is not None:
            return Edit(
                "needs patched",
                "added",
                f"{what}{step.shown} was added, and may take the key of {clash.shown}, which has"
                " the same name",
                "give it a name of its own",
                step.at,
            )
        where = "in a handler that no run in flight has come to"
        if not self._is_out_of_reach(step):
            beside = any(not each.waits >= {step.index} for each in self._behind(step))
            where = "beside the others" if beside else "behind all others"
        return Edit("safe", "added", f"{what}{step.shown} was added {where}", at=step.at)

    def _behind(self, step: Step) -> list[Step]:
        """The recorded steps that this one does not wait for."""
        return [
            each
            for each in self._new.steps
            if each.is_asked_for and each.index in self._to_old and each.index not in step.waits
        ]

    def _clash(self, step: Step) -> Step | None:
        if not step.is_asked_for:
            return None
        for each in self._behind(step):
            if each.index != step.index and may_be_the_same(each.name, step.name):
                return each
        return None

    def _in_front(self, one: Step, step: Step, held_up: Step) -> Edit:
        follower = self._old.steps[self._to_old[held_up.index]]
        if follower.index in one.waits:
            return Edit(
                "needs patched",
                "moved",
                f"{step.shown} was moved in front of {held_up.shown}, which runs may have recorded"
                " without it",
                _guard(f"{step.name} first"),
                step.at,
            )
        return Edit(
            "needs patched",
            "concurrency",
            f"{held_up.shown} now waits for {step.shown}; before, one did not wait for the other",
            _guard(f"{step.name} before {held_up.name}"),
            step.at,
        )

    # --- what is around a step

    def _ways(self) -> Iterator[tuple[int, Edit]]:
        there: dict[Part, Part] = {}
        back: dict[Part, Part] = {}
        told: set[tuple[str, Part | None]] = set()
        for one, step in self.pairs:
            if not step.is_asked_for:
                continue
            old, new = _deciding(one.way), _deciding(step.way)
            edit, around = self._way(one, step, old, new), new[-1] if new else None
            if edit is None and [part.kind for part in old] == [part.kind for part in new]:
                clash = [
                    (a, b)
                    for a, b in zip(old, new, strict=True)
                    if there.setdefault(a, b) != b or back.setdefault(b, a) != a
                ]
                edit = next(self._exhausted(step, old, new), None)
                if clash:
                    edit = _moved(step, "to another branch, loop or handler")
            if edit is not None and (edit.kind + edit.verdict, around) not in told:
                told.add((edit.kind + edit.verdict, around))
                yield step.index, edit

    def _way(self, one: Step, step: Step, old: Sequence[Part], new: Sequence[Part]) -> Edit | None:
        before: list[PartKind] = [part.kind for part in old]
        after: list[PartKind] = [part.kind for part in new]
        if before == after:
            return None
        gained, lost = Counter(after) - Counter(before), Counter(before) - Counter(after)
        if gained and not lost:
            kind: PartKind = next(iter(gained))
            return _under_a_condition(step, kind)
        if lost and not gained and set(lost) == {"choice"}:
            skipped = [part for part in old if part.kind == "choice"][-1]
            behind = self._recorded_behind(step, skipped)
            if not behind:
                words = f"{step.shown} is no longer under a condition, and nothing follows it"
                return Edit("safe", "branch", words, at=step.at)
            return _always(step, behind)
        if lost and not gained:
            kind = next(kind for kind in lost if kind != "choice")
            return _moved(step, f"and is no longer {_INTO[kind]}", "loop")
        return _moved(step, "to another branch, loop or handler")

    def _exhausted(self, step: Step, old: Sequence[Part], new: Sequence[Part]) -> Iterator[Edit]:
        """What follows where a choice around a step is not as exhaustive as it was, or more so."""
        for one, other in zip(old, new, strict=True):
            before = self._old.passable.get(one.number)
            after = self._new.passable.get(other.number)
            if other.kind != "choice" or before == after:
                continue
            if after:
                yield _under_a_condition(step)
            elif behind := self._recorded_behind(step, one):
                yield _always(step, behind)

    def _recorded_behind(self, step: Step, skipped: Part) -> list[Step]:
        """What waits for a step, and was recorded by runs that did not come to it."""
        return [
            each
            for each in self._new.steps
            if step.index in each.follows
            and each.index != step.index
            and each.is_asked_for
            and (known := self._old_of(each)) is not None
            and skipped not in known.way
        ]

    def _swallowed(self) -> Iterator[tuple[int, Edit]]:
        told: set[int] = set()
        for one, step in self.pairs:
            tries = [part for part in one.way if part.kind == "try"]
            for part in tries:
                if part.number not in self._old.swallowing or part.number in told:
                    continue
                now = [each.number for each in step.way if each.kind == "try"]
                if any(number in self._new.swallowing for number in now):
                    continue
                behind = [
                    each
                    for each in self._old.steps
                    if one.index in each.follows and part not in each.way and each.is_asked_for
                ]
                if behind:
                    told.add(part.number)
                    yield (
                        step.index,
                        Edit(
                            "needs patched",
                            "handler",
                            f"a failure of {step.shown} no longer passes without a step: runs that"
                            f" went on after it may have recorded {behind[0].shown}",
                            _guard(f"{step.name} may not fail"),
                            step.at,
                        ),
                    )

    # --- what is gone

    def _removed(self) -> Iterator[Edit]:
        for step in self._unmatched_old():
            if step.is_asked_for:
                what = "step " if step.kind != "unknown" else ""
                yield Edit(
                    "needs patched",
                    "removed",
                    f"{what}{step.shown} was removed, and runs may have recorded it",
                    f'keep it for them: `if not ctx.workflow.patched("without {step.name}"): …`',
                )
            elif self._matters(step):
                yield Edit(
                    "needs patched",
                    "exit",
                    f"{step.shown} was removed: runs that took it may have recorded what follows",
                    f'keep it for them: `if not ctx.workflow.patched("without {step.name}"): …`',
                )
            else:
                words = f"{step.shown} was removed: runs that took it are over"
                yield Edit("safe", "exit", words)

    def _matters(self, step: Step) -> bool:
        """True where a run that took this exit may be in flight."""
        if step.name in ("break", "continue"):
            return True
        if step.name == "return" and step.is_inside("call"):
            return True
        return any(step.is_inside(kind) for kind in ("try", "except", "else"))


def _same_exit(one: Step, step: Step) -> bool:
    exits = one.kind == step.kind == "end"
    return exits and one.name == step.name and _kinds(one.way) == _kinds(step.way)


def _guard_added(patch: str) -> Edit:
    words = f'`ctx.workflow.patched("{patch}")` keeps the old way for runs that have passed it'
    return Edit("safe", "guard", words)


def _guard_removed(patch: str) -> Edit:
    return Edit(
        "needs patched",
        "guard",
        f'the guard `ctx.workflow.patched("{patch}")` was removed: runs from before it go the old'
        " way",
        "keep it until none of them is left",
    )


def _renamed(one: Step, step: Step) -> Edit:
    if _plain(one.name) == _plain(step.name):
        return _kind_changed(one, step)
    return Edit(
        "needs patched",
        "renamed",
        f"step {one.shown} was renamed to {step.shown}: its record has the old name",
        f'keep the old name for old runs: `if ctx.workflow.patched("{step.name}"): … else: …`',
        step.at,
    )


def _kind_changed(one: Step, step: Step) -> Edit:
    return Edit(
        "needs patched",
        "kind",
        f"{step.shown} was {_kind(one)}, and is {_kind(step)}",
        "give the new step another name, and guard it: "
        f'`if ctx.workflow.patched("new {_plain(step.name)}"): … else: …`',
        step.at,
    )


def _target_changed(one: Step, step: Step) -> Edit:
    return Edit(
        "needs patched",
        "target",
        f"the target of {step.shown} was {_target(one)}, and is {_target(step)}",
        "keep the old target for old runs: "
        f'`if ctx.workflow.patched("{step.name} by {step.target}"): … else: …`',
        step.at,
    )


def _undo_changed(one: Step, step: Step) -> Edit:
    before, after = one.undo or "nothing", step.undo or "nothing"
    if not one.undo:
        words = f"{step.shown} is undone by `{after}` now, also in runs in flight"
        return Edit("safe", "undo", words, at=step.at)
    return Edit(
        "needs patched",
        "undo",
        f"{step.shown} was undone by `{before}`, and is undone by `{after}`: runs that unwind may"
        " have recorded the old one",
        _guard(f"undo {step.name} by {after}"),
        step.at,
    )


def _detached(step: Step) -> Edit:
    now = "is no longer waited for" if step.detached else "is waited for now"
    return Edit(
        "needs patched",
        "detached",
        f"the run that {step.shown} starts {now}: the recorded result is another",
        _guard(f"{step.name} detached" if step.detached else f"wait for {step.name}"),
        step.at,
    )


def _under_a_condition(step: Step, kind: PartKind = "choice") -> Edit:
    return Edit(
        "needs patched",
        "loop" if kind == "loop" else "branch",
        f"{step.shown} is now {_INTO[kind]}; runs may have recorded it on another way",
        _guard(f"{step.name} {_INTO[kind]}".replace("`", "")),
        step.at,
    )


def _always(step: Step, behind: Sequence[Step]) -> Edit:
    return Edit(
        "needs patched",
        "branch",
        f"{step.shown} is no longer under a condition: runs that went past it may have recorded"
        f" {behind[0].shown}",
        _guard(f"always {step.name}"),
        step.at,
    )


def _moved(step: Step, where: str, kind: str = "moved") -> Edit:
    return Edit(
        "needs patched",
        kind,
        f"{step.shown} was moved {where}",
        _guard(f"{step.name} moved"),
        step.at,
    )


def _guard(what: str) -> str:
    return f'guard the edit: `if ctx.workflow.patched("{what}"): …`, and keep the old way in `else`'


def _kind(step: Step) -> str:
    if step.name.endswith("[{}]"):
        return "a map"
    return _KINDS.get(step.kind, f"a step of kind {step.kind}")


def _target(step: Step) -> str:
    return f"`{step.target}`" if step.target not in ("", "?") else "not known"


def _plain(name: str) -> str:
    return name.removesuffix("[{}]")


def _kinds(way: Sequence[Part]) -> list[PartKind]:
    return [part.kind for part in _deciding(way)]


def _races(way: Sequence[Part]) -> list[Part]:
    return [part for part in way if part.kind == "race"]


def _deciding(way: Sequence[Part]) -> list[Part]:
    return [part for part in way if part.kind in _DECIDES]
