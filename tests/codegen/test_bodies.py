"""What a workflow's body says: what is a step, what becomes of it, what runs beside it."""

from __future__ import annotations

from textwrap import dedent, indent

import libcst as cst
import pytest

from pikku_gen.model.facts import StepFact
from pikku_gen.scan.helpers import workflow_contexts
from pikku_gen.scan.module import unmeasured
from pikku_gen.scan.workflows import BodyFacts, read_body

HEAD = "async def flow(ctx: WorkflowContext, data: Order) -> None:\n"


def body(text: str) -> BodyFacts:
    module = cst.parse_module(HEAD + indent(dedent(text).strip(), "    ") + "\n")
    function = module.body[0]
    assert isinstance(function, cst.FunctionDef)
    return read_body(function, workflow_contexts(function), meaning, unmeasured)


def meaning(name: str) -> str:
    return name if name == "start_workflow" or name.startswith("signals.") else ""


def fates(text: str) -> list[str]:
    return [step.fate for step in body(text).steps]


def only_step(text: str) -> StepFact:
    (step,) = body(text).steps
    return step


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("await ctx.workflow.do('A', f)", "used"),
        ("x = await ctx.workflow.do('A', f)", "used"),
        ("return await ctx.workflow.do('A', f)", "used"),
        ("print(f'{await ctx.workflow.do(\"A\", f)}')", "used"),
        ("ctx.workflow.do('A', f)", "unawaited"),
        ("return ctx.workflow.do('A', f)", "unawaited"),
        ("asyncio.gather(ctx.workflow.do('A', f))", "unawaited"),
        ("x = ctx.workflow.do('A', f)", "unused"),
        ("x = asyncio.create_task(ctx.workflow.do('A', f))", "unused"),
        ("x = ctx.workflow.do('A', f)\nawait x", "used"),
        ("x = ctx.workflow.do('A', f)\nreturn [await x]", "used"),
        ("x = ctx.workflow.do('A', f)\nawait ctx.workflow.sleep('B', wait(x))", "used"),
        ("steps.append(ctx.workflow.do('A', f))", "used"),
        (
            "async with asyncio.TaskGroup() as g:\n    g.create_task(ctx.workflow.do('A', f))",
            "used",
        ),
        ("x = await ctx.workflow.race(ctx.workflow.do('A', f), y)", "used"),
        ("ctx.workflow.race(ctx.workflow.do('A', f), y)", "unawaited"),
        ("ctx.workflow.map('A', f, [])", "unawaited"),
        ("ctx.workflow.wait_for_signal('A', s)", "unawaited"),
        ("x = ctx.workflow.approval('A')", "unused"),
        ("ctx.workflow.patched('A')", "used"),
        ("x = ctx.workflow.patched('A')", "used"),
        ("async with ctx.workflow.saga() as s:\n    s.do('A', f, 1, undo=g)", "unawaited"),
        ("s = ctx.workflow.saga()\nasync with s:\n    await s.do('A', f, 1, undo=g)", "used"),
    ],
)
def test_what_becomes_of_a_step(text: str, fate: str) -> None:
    assert fates(text)[0] == fate


@pytest.mark.parametrize(
    ("text", "clashes"),
    [
        ("await do('A', f)\nawait do('A', f)", []),
        ("for i in x:\n    await do('A', f)", []),
        ("r = [await do('A', f) for i in x]", []),
        ("r = [do('A', f) for i in x]\nawait asyncio.gather(*r)", ["A"]),
        ("await asyncio.gather(do('A', f), do('B', f))", []),
        ("await asyncio.gather(do('A', f), do('A', f))", ["A"]),
        ("await asyncio.wait([do('A', f), do('A', f)])", ["A"]),
        ("await asyncio.gather(do('A', f))\nawait asyncio.gather(do('A', f))", []),
        ("for i in x:\n    await asyncio.gather(do('A', f), do('B', f))", []),
        ("for i in x:\n    t = do('A', f)\n    await t", []),
        ("for i in x:\n    ts.append(do('A', f))", ["A"]),
        ("for i in x:\n    ts.append(do(f'A {i}', f))", []),
        ("t = do('A', f) if x else do('A', g)\nawait t", []),
        ("a = do('A', f)\nb = do('A', f)\nawait asyncio.gather(a, b)", ["A"]),
        ("a = do('A', f)\nawait a\nb = do('A', f)\nawait b", []),
    ],
)
def test_which_names_are_used_at_the_same_time(text: str, clashes: list[str]) -> None:
    assert [found.name for found in body("do = ctx.workflow.do\n" + text).concurrent] == clashes


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        ("'send'", "name", "send"),
        ("ctx.rpc.send", "attribute", "send"),
        ("send", "reference", "send"),
        ("functions.send", "reference", "functions.send"),
        ("lambda: 1", "inline", ""),
        ("make()", "unknown", ""),
    ],
)
def test_the_ways_to_name_a_target(target: str, kind: str, text: str) -> None:
    step = only_step(f"await ctx.workflow.do('A', {target}, data)")

    assert step.target is not None
    assert (step.target.kind, step.target.text) == (kind, text)


@pytest.mark.parametrize(
    ("signal", "kind", "text"),
    [
        ("'upgraded'", "signal", "upgraded"),
        ("signals.upgraded", "signals", "upgraded"),
        ("upgraded", "reference", "upgraded"),
        ("make()", "unknown", ""),
    ],
)
def test_the_ways_to_name_a_signal(signal: str, kind: str, text: str) -> None:
    step = only_step(f"await ctx.workflow.wait_for_signal('A', {signal})")

    assert step.target is not None
    assert (step.target.kind, step.target.text) == (kind, text)


def test_what_undoes_a_step_of_a_saga_is_a_target_too() -> None:
    step = only_step(
        "async with ctx.workflow.saga() as s:\n    await s.do('A', 'book', 1, undo=ctx.rpc.release)"
    )

    assert step.undo is not None
    assert (step.undo.kind, step.undo.text) == ("attribute", "release")


def test_steps_on_one_line_are_planned_and_others_are_not() -> None:
    assert body("await ctx.workflow.do('A', f)\nawait ctx.workflow.sleep('B', '1s')").linear
    assert body("try:\n    await ctx.workflow.do('A', f)\nfinally:\n    pass").linear
    assert not body("if x:\n    await ctx.workflow.do('A', f)").linear
    assert not body("if x:\n    return\nawait ctx.workflow.do('A', f)").linear
    assert not body("for i in x:\n    await ctx.workflow.do('A', f)").linear


def test_calls_outside_of_steps_are_noted() -> None:
    found = body("await ctx.rpc.send(1)\nawait start_workflow('x')\nawait other(1)\nlocal = 1")

    assert [(call.kind, call.text) for call in found.calls] == [
        ("rpc", "ctx.rpc.send"),
        ("start", "start_workflow"),
        ("reference", "other"),
    ]


def test_the_context_may_have_any_name() -> None:
    module = cst.parse_module("async def flow(c):\n    w = c.workflow\n    await w.do('A', f)\n")
    function = module.body[0]
    assert isinstance(function, cst.FunctionDef)

    found = read_body(function, workflow_contexts(function), lambda _: "", unmeasured)

    assert [step.name for step in found.steps] == ["A"]
