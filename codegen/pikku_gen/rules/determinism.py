"""Does the body of a workflow only decide? Whatever looks at the world, or changes it, is a step.

Only what is certain is reported: names that lead where the tables below say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.model.app import App, BodyModel
from pikku_gen.model.facts import UseFact
from pikku_gen.rules import calls

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def judge(app: App) -> Iterator[Diagnostic]:
    """What workflows, and the functions they call, do outside of steps."""
    for body in app.conduct:
        variables: set[str] = set()
        for use in body.uses:
            if use.kind == "global":  # one word for each variable
                if use.text in variables:
                    continue
                variables.add(use.text)
            found = _judged(body, use)
            if found is not None:
                yield _told(body, found)


def _judged(body: BodyModel, use: UseFact) -> Diagnostic | None:
    if use.inline or body.inline:
        return _in_a_step(body, use)
    place = body.source.at(use.span)
    match use.kind:
        case "call":
            return _call(body, use)
        case "read":
            return _environment(body, use)
        case "set":
            return diagnostic("PKG313", place, use.text)
        case "global":
            return diagnostic("PKG314", place, use.text)
        case "swallow":
            hint = ""
            if "suppress" in use.text:
                hint = "suppress `Exception`, or what the steps in it raise"
            return diagnostic("PKG315", place, use.text, hint=hint)
        case "result":
            return diagnostic("PKG316", place, use.name) if body.call is None else None
        case "services":
            return diagnostic("PKG317", place, use.text)


def _in_a_step(body: BodyModel, use: UseFact) -> Diagnostic | None:
    """In a step nothing has to be the same; but an inline one holds up whatever runs beside it."""
    place = body.source.at(use.span)
    if use.kind == "result" and body.call is None:
        return diagnostic("PKG316", place, use.name)
    if use.kind == "call" and calls.blocks(use.name) and not use.made:
        return diagnostic("PKG318", place, use.text)
    return None


def _call(body: BodyModel, use: UseFact) -> Diagnostic | None:
    code = calls.code_of(use.name, use.arguments)
    if code is None or (use.made and code == "PKG309"):
        return None
    place = body.source.at(use.span)
    match code:
        case "PKG306":
            return _clock(body, use)
        case "PKG307":
            return _chance(body, use)
        case "PKG308":
            return _environment(body, use)
        case "PKG309" | "PKG311":
            return diagnostic(code, place, use.text, hint=_as_step(body, use))
        case "PKG310":
            is_whole = not calls.opens(use.name)
            return diagnostic(code, place, use.text, hint=_as_step(body, use, inline=is_whole))
        case "PKG318":
            is_sleep = use.name == "time.sleep"
            return _sleep(body, use, code) if is_sleep else diagnostic(code, place, use.text)
        case _:
            return _loop(body, use)


def _clock(body: BodyModel, use: UseFact) -> Diagnostic:
    place = body.source.at(use.span)
    now = f"await {use.workflow or 'ctx.workflow'}.now()"
    instead = calls.NOW.get(use.name, "{0}").format(now, *use.arguments[:1])
    if use.arguments and use.name == "datetime.datetime.now":
        zone = use.arguments[0].removeprefix("tz=")
        is_utc = zone.rpartition(".")[2].lower() == "utc"
        instead = now if is_utc else f"({now}).astimezone({zone})"
    fixable = use.name in calls.NOW and _is_fixable(use)
    hint = f"write `{instead}`: it is recorded once"
    if not _reaches_steps(body, use):
        hint = f"write `{instead}` in the workflow, and pass it on"
    fix = instead if fixable else ""
    return diagnostic("PKG306", place, use.text, hint=hint, fix=fix)


def _chance(body: BodyModel, use: UseFact) -> Diagnostic:
    place = body.source.at(use.span)
    method = {"uuid.uuid4": "uuid4", "random.random": "random"}.get(use.name)
    if method is None:
        return diagnostic("PKG307", place, use.text, hint=_as_step(body, use, inline=True))
    instead = f"await {use.workflow or 'ctx.workflow'}.{method}()"
    hint = f"write `{instead}`: it is recorded once"
    if not _reaches_steps(body, use):
        hint = f"write `{instead}` in the workflow, and pass it on"
    fix = instead if _is_fixable(use) and not use.arguments else ""
    return diagnostic("PKG307", place, use.text, hint=hint, fix=fix)


def _environment(body: BodyModel, use: UseFact) -> Diagnostic:
    place = body.source.at(use.span)
    return diagnostic("PKG308", place, use.text, hint=_as_step(body, use, inline=True))


def _loop(body: BodyModel, use: UseFact) -> Diagnostic:
    if use.name in calls.SLEEPS:
        return _sleep(body, use, "PKG312")
    hint = calls.LOOP_HINTS.get(use.name, "")
    hint = hint or _as_step(body, use)
    return diagnostic("PKG312", body.source.at(use.span), use.text, hint=hint)


def _sleep(body: BodyModel, use: UseFact, code: str) -> Diagnostic:
    """A wait that is no step; for how long is part of the fix where it is a number."""
    place = body.source.at(use.span)
    workflow = use.workflow or "ctx.workflow"
    given = use.arguments[0] if use.arguments else ""
    length = _duration(given)
    instead = f'{workflow}.sleep("Wait {length}", "{length}")' if length else ""
    shown = instead or f'{workflow}.sleep("Why it waits", timedelta(seconds={given}))'
    is_plain = len(use.arguments) == 1 and bool(length)
    fix = instead if is_plain and code == "PKG312" and _is_fixable(use) else ""
    hint = f"write `await {shown}`: it survives a restart"
    return diagnostic(code, place, use.text, hint=hint, fix=fix)


def _duration(text: str) -> str:
    """Seconds as a duration; empty where they are no plain number of milliseconds."""
    if not _NUMBER.fullmatch(text):
        return ""
    milliseconds = float(text) * 1000
    if milliseconds < 1 or milliseconds != int(milliseconds):
        return ""
    seconds, rest = divmod(int(milliseconds), 1000)
    if rest:
        return f"{int(milliseconds)}ms"
    return f"{seconds // 60}min" if seconds % 60 == 0 else f"{seconds}s"


def _as_step(body: BodyModel, use: UseFact, *, inline: bool = False) -> str:
    """The line that does it in a step."""
    workflow = use.workflow or "ctx.workflow"
    called = f"lambda: {use.text}" if inline and "…" not in use.text else "function, data"
    if not _reaches_steps(body, use):
        return f'do it in a step of the workflow: `await {workflow}.do("Step name", {called})`'
    return f'make it a step: `await {workflow}.do("Step name", {called})`'


def _reaches_steps(body: BodyModel, use: UseFact) -> bool:
    return bool(use.workflow) or body.call is None


def _is_fixable(use: UseFact) -> bool:
    return bool(use.workflow) and use.exact


def _told(body: BodyModel, found: Diagnostic) -> Diagnostic:
    """A finding in a function says which workflow calls it, and where."""
    if body.call is None:
        return found
    called = f"`{body.name}` is called by the workflow `{body.workflow.fact.qualname}`"
    called += f" through `{body.through}`" if body.through else ""
    message = f"{found.message}; {called}"
    return replace(found, message=message, related=(*found.related, body.call))
