"""Two manifests compared, workflow by workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pikku_gen.diff.compare import compare_graphs
from pikku_gen.diff.edits import Change, Edit, Manifest, by_name
from pikku_gen.diff.steps import Step
from pikku_gen.diff.values import Values

_NEW_FUNCTION: Final = "give what is new a default, or make a new function and guard its step"


def compare(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """Every workflow of either manifest, by name."""
    return tuple(_Comparison(old, new).changes())


class _Comparison:
    def __init__(self, old: Manifest, new: Manifest) -> None:
        self._old = old
        self._new = new
        self._values = Values(old.get("types", {}), new.get("types", {}))
        self._results = [_results(old), _results(new)]
        self._inputs = [_inputs(old), _inputs(new)]

    def changes(self) -> Iterator[Change]:
        before = by_name(self._old["workflows"])
        after = by_name(self._new["workflows"])
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one is None:
                edits = [Edit("safe", "new", "the workflow is new")]
            elif other is None:
                edits = [_gone(one, after, before)]
            else:
                edits = list(self._edits(one, other))
            yield Change(
                "workflow",
                name,
                tuple(edits),
                str(one["version"]) if one else "",
                str(other["version"]) if other else "",
            )

    def _edits(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Edit]:
        yield from self._signature(one, other)
        edits, pairs = compare_graphs(one["graph"], other["graph"])
        yield from edits
        told: set[tuple[str, str]] = set()
        for before, after in pairs:
            for edit in self._recorded(before, after):
                if (edit.kind, edit.message) not in told:
                    told.add((edit.kind, edit.message))
                    yield edit
        yield from self._repeated(pairs)

    def _signature(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Edit]:
        took, takes = one.get("input_type"), other.get("input_type")
        if took is None or takes is None:
            return
        if problem := self._values.problem(str(took), str(takes)):
            yield Edit(
                "breaking",
                "input",
                f"the input of runs in flight can no longer be read: {problem}",
                "give what is new a default, or wire the new function under a name of its own",
            )

    def _recorded(self, before: Step, after: Step) -> Iterator[Edit]:
        """What was recorded of a step, read by the new code."""
        kept = (before.kind, before.target) == (after.kind, after.target)
        if not kept or before.detached or after.detached:
            return
        key = (after.kind, after.target)
        old, new = self._results[0].get(key), self._results[1].get(key)
        if old is not None and new is not None and (problem := self._values.problem(old, new)):
            what = "payload of signal" if after.kind == "signal" else "result of"
            yield Edit(
                "breaking",
                "result",
                f"the {what} `{after.target}`, recorded by {after.shown}, can no longer be read:"
                f" {problem}",
                _NEW_FUNCTION if after.kind != "signal" else "give what is new a default",
                after.at,
            )
        old, new = self._inputs[0].get(key), self._inputs[1].get(key)
        if not before.undo or old is None or new is None:
            return
        if problem := self._values.problem(old, new):
            yield Edit(
                "breaking",
                "undo",
                f"the input of `{after.target}`, recorded by {after.shown} for its undoing, can no"
                f" longer be read: {problem}",
                _NEW_FUNCTION,
                after.at,
            )

    def _repeated(self, pairs: Sequence[tuple[Step, Step]]) -> Iterator[Edit]:
        """A step whose name comes again is recorded with a fingerprint of its input."""
        counts = Counter(before.name for before, _ in pairs)
        told: set[str] = set()
        for before, after in pairs:
            again = counts[before.name] > 1 or (
                before.is_inside("loop") and "{}" not in before.name
            )
            key = (after.kind, after.target)
            old, new = self._inputs[0].get(key), self._inputs[1].get(key)
            if not again or old is None or new is None or self._values.same(old, new):
                continue
            if (before.kind, before.target) == key and after.name not in told:
                told.add(after.name)
                yield Edit(
                    "needs patched",
                    "input",
                    f"the input of {after.shown} is written otherwise, and its name is repeated:"
                    " such a step is recorded with a fingerprint of its input",
                    "give each a name of its own, and keep the old type for old runs",
                    after.at,
                )


def _gone(one: Mapping[str, Any], after: Mapping[str, Any], before: Mapping[str, Any]) -> Edit:
    for name, other in sorted(after.items()):
        same = (other["module"], other["qualname"]) == (one["module"], one["qualname"])
        alike = one["graph"] and other["version"] == one["version"]
        if name not in before and (same or alike):
            return Edit(
                "breaking",
                "renamed",
                f"the workflow was renamed to `{name}`: its runs have the old name",
                f'wire the old name as well: `wire_workflow(name="{one["name"]}", func=…)`',
            )
    return Edit(
        "breaking",
        "removed",
        "the workflow was removed: nobody goes on with its runs",
        "keep it until none of its runs is left",
    )


def _results(manifest: Manifest) -> dict[tuple[str, str], str]:
    """The type of what is recorded of a step, by its kind and target."""
    found = {("rpc", each["name"]): each.get("output_type") for each in manifest["functions"]}
    found |= {("child", each["name"]): each.get("output_type") for each in manifest["workflows"]}
    found |= {("signal", each["name"]): each.get("payload_type") for each in manifest["signals"]}
    return {key: value for key, value in found.items() if value is not None}


def _inputs(manifest: Manifest) -> dict[tuple[str, str], str]:
    found = {("rpc", each["name"]): each.get("input_type") for each in manifest["functions"]}
    found |= {("child", each["name"]): each.get("input_type") for each in manifest["workflows"]}
    return {key: value for key, value in found.items() if value is not None}
