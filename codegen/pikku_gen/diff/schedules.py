"""The schedules of two manifests compared: what becomes of their ticks.

A tick has its own times and policy with it, and takes what it calls or starts from the code. So a
change of the times never touches one that is due, and another target touches one that has begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Any, Final

from pikku_gen.diff.edits import Change, Edit, Entry, Manifest, by_name, wired_at

_TIMES: Final = ("schedule", "timezone", "catch_up")
_VERBS: Final = {"function": "call", "workflow": "start"}


def compare(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """Every schedule of either manifest, by name."""
    return tuple(_Comparison(old, new).changes())


class _Comparison:
    def __init__(self, old: Manifest, new: Manifest) -> None:
        self._before = by_name(old.get("schedules", ()))
        self._after = by_name(new.get("schedules", ()))
        self._targets = [_targets(old), _targets(new)]

    def changes(self) -> Iterator[Change]:
        for name in sorted(self._before.keys() | self._after.keys()):
            one, other = self._before.get(name), self._after.get(name)
            if one is None:
                edits = [Edit("safe", "new", "the schedule is new", at=wired_at(other))]
            elif other is None:
                edits = [self._gone(one)]
            else:
                edits = [*_times(one, other), *self._target(one, other)]
            yield Change("schedule", name, tuple(edits))

    def _gone(self, one: Entry) -> Edit:
        clear = f"`pikku schedule remove {quote(one['name'])}`"
        for name, other in sorted(self._after.items()):
            alike = all(one[key] == other[key] for key in ("kind", *_TIMES))
            if name not in self._before and alike and self._of(0, one) == self._of(1, other):
                return Edit(
                    "breaking",
                    "renamed",
                    f"the schedule was renamed to `{name}`: ticks that are due or under way have"
                    " the old name, and nobody goes on with them",
                    f"clear them away once it is deployed: {clear}",
                    wired_at(other),
                )
        return Edit(
            "breaking",
            "removed",
            "the schedule was removed: it stands still, and nobody goes on with ticks that are due"
            " or under way",
            f"clear them away once it is deployed: {clear}",
        )

    def _target(self, one: Entry, other: Entry) -> Iterator[Edit]:
        was, now = self._of(0, one), self._of(1, other)
        kinds = one["kind"], other["kind"]
        if kinds == ("workflow", "workflow") and was != now:
            words = f"it started `{was}`, and starts `{now}`; runs that it has started go on"
            yield Edit("safe", "target", words, at=wired_at(other))
        elif kinds[0] != kinds[1] or was != now:
            met = "stands still"
            if kinds[0] != kinds[1]:
                met = f"does the new one as well, and {met}"
            yield Edit(
                "breaking",
                "kind" if kinds[0] != kinds[1] else "target",
                f"it {_VERBS[kinds[0]]}ed `{was}`, and {_VERBS[kinds[1]]}s `{now}`: a tick that has"
                f" begun with the old one {met}; the others do the new one",
                "deploy it while no tick is under way, or cancel those that stand still:"
                " `pikku runs cancel ID --force`",
                wired_at(other),
            )

    def _of(self, side: int, entry: Entry) -> str:
        """The name of what a schedule calls or starts."""
        return self._targets[side].get((entry["kind"], entry["func"]), str(entry["func"]))


def _times(one: Entry, other: Entry) -> Iterator[Edit]:
    changed = [key for key in _TIMES if one[key] != other[key]]
    if changed:
        said = "; ".join(
            f"`{key}` was `{_shown(one[key])}`, and is `{_shown(other[key])}`" for key in changed
        )
        words = f"{said}: what is due by then is done as it was meant, and the new ticks follow"
        yield Edit("safe", "times", words, at=wired_at(other))


def _targets(manifest: Manifest) -> dict[tuple[str, str], str]:
    """The names of functions and workflows, by kind and place."""
    found: dict[tuple[str, str], str] = {}
    for kind in ("function", "workflow"):
        for each in manifest[f"{kind}s"]:
            found.setdefault((kind, f"{each['module']}:{each['qualname']}"), each["name"])
    return found


def _shown(option: Any) -> str:  # JSON
    """What is no literal is shown as it is written."""
    return option if isinstance(option, str) else str(option["source"])
