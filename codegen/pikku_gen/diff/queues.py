"""The queues of two manifests compared: what becomes of the jobs in them.

A job carries the name of the function that it was added for, and is done by that one, whatever does
the jobs of its queue by now. Its result is read as one of the function that is wired now.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from pikku_gen.diff.edits import Change, Edit, Entry, Manifest, by_name, wired_at
from pikku_gen.diff.values import Values


def compare(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """Every queue of either manifest, by name."""
    return tuple(_Comparison(old, new).changes())


class _Comparison:
    def __init__(self, old: Manifest, new: Manifest) -> None:
        self._before = by_name(old.get("queues", ()))
        self._after = by_name(new.get("queues", ()))
        self._old = by_name(old["functions"])
        self._new = by_name(new["functions"])
        self._values = Values(old.get("types", {}), new.get("types", {}))

    def changes(self) -> Iterator[Change]:
        for name in sorted(self._before.keys() | self._after.keys()):
            one, other = self._before.get(name), self._after.get(name)
            if one is None:
                edits = [Edit("safe", "new", "the queue is new", at=wired_at(other))]
            elif other is None:
                edits = [self._gone(one)]
            else:
                edits = [*self._done_by(one, other), *_config(one, other)]
            yield Change("queue", name, tuple(edits))

    def _gone(self, one: Entry) -> Edit:
        name = one["name"]
        for renamed, other in sorted(self._after.items()):
            if renamed not in self._before and other["function"] == one["function"]:
                return Edit(
                    "breaking",
                    "renamed",
                    f"the queue was renamed to `{renamed}`: its jobs have the old name, and nobody"
                    " takes them",
                    f'wire the old name as well: `wire_queue_worker(queue="{name}", func=…)`',
                    wired_at(other),
                )
        return Edit(
            "breaking",
            "removed",
            "the queue was removed: its jobs wait, and nobody takes them",
            "keep it until none of its jobs is left, or remove them:"
            f" `pikku queue purge {name} --status waiting`",
        )

    def _done_by(self, one: Entry, other: Entry) -> Iterator[Edit]:
        was, now, at = one["function"], other["function"], wired_at(other)
        if was != now and was in self._new:
            words = f"jobs are done by `{now}`; those that were added for `{was}`, still by `{was}`"
            yield Edit("safe", "function", words, at=at)
        elif was != now:
            yield Edit(
                "breaking",
                "function",
                f"jobs are done by `{now}`; those that were added for `{was}` wait, and nobody does"
                " them",
                f"keep `{was}` until none of them is left",
                at,
            )
        if problem := self._problem("input_type", was, was):
            yield Edit(
                "breaking",
                "input",
                "the input of jobs that wait can no longer be read, so that they fail and are dead"
                f" letters: {problem}",
                "give what is new a default, or make a new function with a queue of its own",
                at,
            )
        if problem := self._problem("output_type", was, now):
            yield Edit(
                "breaking",
                "result",
                f"results that are kept can no longer be read: {problem}",
                "give what is new a default, or make a new function with a queue of its own",
                at,
            )

    def _problem(self, key: str, was: str, now: str) -> str:
        before, after = self._old.get(was, {}).get(key), self._new.get(now, {}).get(key)
        if before is None or after is None:
            return ""
        return self._values.problem(str(before), str(after))


def _config(one: Entry, other: Entry) -> Iterator[Edit]:
    before, after = _source(one), _source(other)
    if before == after:
        return
    ones, others = _limits(before), _limits(after)
    if ones is None or others is None:
        said = f"`config` was `{before}`, and is `{after}`"
    else:
        said = "; ".join(
            f"`{name}` was `{ones.get(name)}`, and is `{others.get(name)}`"
            for name in sorted(ones.keys() | others.keys())
            if ones.get(name) != others.get(name)
        )
    if said:
        words = f"{said}: processes with the new code keep to it at once, also for jobs that wait"
        yield Edit("safe", "config", words, at=wired_at(other))


def _source(entry: Entry) -> str:
    """The config as it is written, however it is laid out."""
    config = entry.get("config")
    return ast.unparse(ast.parse(config["source"], mode="eval")) if config else "None"


def _limits(config: str) -> Mapping[str, str] | None:
    """What a `QueueConfig(…)` says, by name; None for any other expression."""
    node = ast.parse(config, mode="eval").body
    if isinstance(node, ast.Constant):
        return {}
    if not isinstance(node, ast.Call) or node.args:
        return None
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return {name: text for name, text in given.items() if name and text != "None"}
