"""The scanner reads any Python, and any bytes in a file of that name: it ends with a package or
with diagnostics, and no step of a workflow is dropped on the way."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.codegen.test_golden import CASES, project_of
from tests.fuzz.kit import REPEAT, SEED, TIMES, mangled, rounds

from pikku_gen.cache import open_cache
from pikku_gen.cli import diagnostics_text
from pikku_gen.codes import TABLE
from pikku_gen.config import read_settings
from pikku_gen.pipeline import Outcome, _understand, run
from pikku_gen.project import locate
from pikku_gen.reading import Reader

ROOT = Path(__file__).parents[2]
EVERY_PACKAGE = bool(os.environ.get("PIKKU_FUZZ_EVERY_PACKAGE"))
"""`PIKKU_FUZZ_EVERY_PACKAGE=1` reads all that is installed beside pikku."""


def assert_ends_well(outcome: Outcome) -> str:
    """Whatever was read: an output, or words that can be printed."""
    said = diagnostics_text(outcome)
    said.encode()
    assert all(found.code in TABLE for found in outcome.diagnostics)
    assert said or not outcome.failed
    return said


# --- sources of one's own -------------------------------------------------------------------------

HEAD = """
import asyncio
import functools
from typing import Any
from shop_pikku import (
    Context, WorkflowContext, pikku_func, pikku_workflow_func, queues, rpc, signals,
    start_workflow, wire_queue_worker, wire_scheduler, wire_signal, wire_workflow, workflows,
)
import shop_pikku as gen

wire_signal(name="word", payload=int)

@pikku_func
async def work(ctx: Context, n: int) -> int:
    return n
"""
ODD_DECORATED = """
class Holder:
    @pikku_func
    async def method(self, ctx: Context) -> int: ...
# ---
@functools.cache
@pikku_func(retries=3, **more)
def {n}(ctx, /, data: 'Any', *rest, k=1): ...
# ---
{n} = pikku_func(lambda ctx: 1)
# ---
{n} = pikku_workflow_func(timeout='1h')(work)
# ---
if True:
    @gen.pikku_func()
    async def {n}(ctx: Context) -> list[int | None]: return []
# ---
@pikku_func
@pikku_workflow_func
async def {n}(ctx: Any, data: dict[str, Any] = {}) -> Any: ...
# ---
@(pikku_func if True else print)
async def {n}(ctx: Context) -> int: ...
# ---
@pikku_func(name=f'{n}' + str(1), tags=[*'ab'], description=None)
def {n}(ctx: Context) -> int: ...
# ---
for pikku_func in [pikku_func]:
    @pikku_func
    def {n}(ctx: Context) -> int: return 1
# ---
try:
    import nope
except ImportError:
    @pikku_func
    def {n}(ctx: Context) -> int: ...
# ---
@pikku_func
class {n}: ...
# ---
wire_workflow(*[], name='x')
# ---
wire_workflow(name='{n}', func=lambda: 1)
# ---
wire_workflow(name='{n}', func=work, expose='yes', tags={{1}}, colour=3)
# ---
{n}, other = wire_signal(name='{n}'), 2
# ---
wire_signal('{n}')
wire_signal(name='')
wire_signal(name='{n}', payload=int | (lambda: 1))
# ---
wire_queue_worker(queue='{n}', func=work.x, config=[*queues])
wire_queue_worker(queue=f'{n}', func=work, config=None, **more)
wire_queue_worker('{n}', work)
# ---
wire_scheduler(name='{n}', schedule='* * 1#1 \\0 é', timezone='/', func=work)
wire_scheduler(name='{n}', schedule=b'@daily', timezone=None, catch_up=3, func=lambda: work)
wire_scheduler(schedule='@daily', func=work)
# ---
async def {n}(): await queues.add(); await queues.{n}.add(*[1]); queues().add.get_job(1)
# ---
@pikku_workflow_func
async def {n}(ctx: Any): queues.add(*ctx); queues.x.add(); (await queues.add(f'{n}')).x
# ---
@pikku_func
async def {n}(ctx: Context, data: 'list[') -> '1 +': ...
# ---
@pikku_func
async def {n}(ctx: Context, data: Nowhere[Nothing]) -> work.x.y: ...
# ---
@pikku_func
async def {n}() -> None: ...
# ---
@pikku_workflow_func
def {n}(ctx): yield from ctx.workflow.do('A', work)
# ---
async def {n}(): start_workflow('no'); rpc.invoke('no', 1); rpc.no(1); workflows.no.start()
# ---
match 1:
    case _:
        @pikku_func
        async def {n}(ctx: Context) -> None: ...
# ---
from shop.odd import *
from .odd import work as {n}
from .....far import away
# ---
pikku_func: Any = pikku_func
# ---
del work
# ---
@pikku_func
async def {n}(ctx: Context, data: int) -> int: ...  # \u2028 \ufeff é
# ---
@pikku_func
async def e\u0301(ctx: Context) -> int: ...
# ---
@pikku_func(name='a\\x00b\\ud800')
async def {n}(ctx: Context) -> int: ...
# ---
@pikku_func(description='\\N{{DUCK}}\\x1b[31m')
async def {n}(ctx: Context) -> int: ...
""".split("# ---")
"""What is written with our names, as nobody should: `{n}` is a name."""


def odd_module(draw: Random) -> str:
    parts = [HEAD]
    for number in range(draw.randint(1, 6)):
        parts.append(draw.choice(ODD_DECORATED).replace("{{", "\0{").replace("}}", "\0}"))
        parts[-1] = parts[-1].replace("{n}", f"f{number}").replace("\0", "")
    draw.shuffle(parts[1:])
    return "\n".join(parts)


# --- workflow bodies: every step is in the graph, or something unknown stands in its place --------


@dataclass
class Body:
    """The lines of a workflow's body, and the steps that are written in it."""

    draw: Random
    steps: list[str] = field(default_factory=list[str])
    odd: list[str] = field(default_factory=list[str])
    """Those that are written in a way that nobody can be sure of."""
    helpers: list[str] = field(default_factory=list[str])
    numbers: Iterator[int] = field(default_factory=count)

    def step(self) -> str:
        name = f"S{len(self.steps) + len(self.odd)}"
        if self.draw.random() < 0.15:
            self.odd.append(name)
            return self.draw.choice(
                (
                    f"ctx.workflow.do(*[{name!r}, work, 1])",
                    f"getattr(ctx.workflow, 'do')({name!r}, work, 1)",
                    f"functools.partial(ctx.workflow.do, {name!r})(work, 1)",
                    f"pick(ctx.workflow)[0].do({name!r}, work, 1)",
                    f"(lambda w: w.do({name!r}, work, 1))(ctx.workflow)",
                    f"asyncio.to_thread(helper, ctx, {name!r})",
                    f"ctx.workflow.__class__.do(ctx.workflow, {name!r}, work, 1)",
                    f"(w := ctx.workflow).do({name!r}, work, 1)",
                    f"(ctx.workflow or w).do({name!r}, work, 1)",
                )
            )
        self.steps.append(name)
        calls = (
            f"ctx.workflow.do({name!r}, work, 1)",
            f"ctx.workflow.do({name!r}, lambda: 1)",
            f"ctx.workflow.do({name!r}, ctx.rpc.work, 1, retries=2)",
            f"ctx.workflow.sleep({name!r}, '1h')",
            f"ctx.workflow.map({name!r}, work, [1, 2])",
            f"ctx.workflow.wait_for_signal({name!r}, signals.word)",
            f"ctx.workflow.approval({name!r}, reason='x')",
            f"ctx . workflow . do(({name!r}), work, data=1)",
            f"(ctx.workflow).do({name!r}, work, 1)",
            f"steps.do({name!r}, work, 1)",
            f"do({name!r}, work, 1)",
        )
        return self.draw.choice(calls)

    def awaited(self) -> str:
        kind = self.draw.randrange(14)
        if kind > 6:
            return f"await {self.step()}"
        forms = (
            lambda: f"await asyncio.gather({self.step()}, {self.step()})",
            lambda: f"[await {self.step()} for _ in range(2)]",
            lambda: f"{{'a': await {self.step()}, 'b': (await {self.step()},)}}",
            lambda: f"(await {self.step()}) if (await {self.step()}) else (await {self.step()})",
            lambda: f"await ctx.workflow.race({self.step()}, {self.step()})",
            lambda: f'f"""{{await {self.step()}}}""" and (await {self.step()})',
            lambda: f"await asyncio.wait_for({self.step()}, 5)",
        )
        return forms[kind]()

    def block(self, depth: int) -> list[str]:
        lines: list[str] = []
        for _ in range(self.draw.randint(1, 3)):
            lines += self.statement(depth)
        return lines

    def inner(self, depth: int) -> list[str]:
        return [f"    {line}" for line in self.block(depth - 1)]

    def statement(self, depth: int) -> list[str]:
        kind = self.draw.randrange(8 if depth == 0 else 22)
        match kind:
            case 0:
                return [f"a.b[{self.awaited()}] = {self.awaited()}"]
            case 1:
                return [f"later = {self.step()}", "await later"]
            case 2:
                return [f"assert {self.awaited()}, {self.awaited()}"]
            case 3:
                return [f"total += {self.awaited()}"]
            case 4:
                return [f"value: int = {self.awaited()}"]
            case 5 | 6 | 7:
                return [self.awaited()]
            case 8:
                return [f"if {self.awaited()}:", *self.inner(depth), "else:", *self.inner(depth)]
            case 9:
                return [f"for each in {self.awaited()}:", *self.inner(depth)]
            case 10:
                return [f"while {self.awaited()}:", *self.inner(depth), "    break"]
            case 11:
                handlers = (
                    ["except* ValueError as e:"]
                    if self.draw.random() < 0.3
                    else ["except (ValueError, KeyError):"]
                )
                return ["try:", *self.inner(depth), *handlers, *self.inner(depth),
                        "finally:", *self.inner(depth)]  # fmt: skip
            case 12:
                return ["async with asyncio.TaskGroup() as tg:",
                        f"    tg.create_task({self.step()})", *self.inner(depth)]  # fmt: skip
            case 13:
                name = f"S{len(self.steps) + len(self.odd)}"
                self.steps.append(name)
                return ["async with ctx.workflow.saga() as saga:",
                        f"    await saga.do({name!r}, work, 1, undo=work)",
                        *self.inner(depth)]  # fmt: skip
            case 14:
                return [f"match {self.awaited()}:", f"    case 1 if {self.awaited()}:",
                        *(f"    {line}" for line in self.inner(depth)),
                        "    case _:", "        pass"]  # fmt: skip
            case 15:
                name = f"local{next(self.numbers)}"
                return [f"async def {name}(x=1):", *self.inner(depth), f"await {name}()"]
            case 16:
                number = len(self.helpers)
                inner = Body(self.draw, self.steps, self.odd, [])
                lines = [f"    {line}" for line in inner.block(0)]
                head = [
                    f"async def helper{number}(ctx: WorkflowContext, n: int):",
                    "    steps = ctx.workflow",
                    "    do = ctx.workflow.do",
                    "    a = total = 0",
                ]
                self.helpers.append("\n".join([*head, *lines]))
                return [f"await helper{number}({self.draw.choice(['ctx, 1', 'n=1, ctx=ctx'])})"]
            case 17:
                return ["async with make() as made:", *self.inner(depth)]
            case 18:
                return [f"async for x in stream({self.awaited()}):", *self.inner(depth)]
            case 19:
                return [f"del a[{self.awaited()}]; {self.awaited()}; pass"]
            case 20:
                return ["with a as b, open(" + self.awaited() + ") as c:", *self.inner(depth)]
            case _:
                return [f"run = lambda: {self.step()}", "await run()"]


def workflow(draw: Random) -> tuple[str, Body]:
    body = Body(draw)
    lines = [f"    {line}" for line in body.block(3)]
    if draw.random() < 0.3:
        lines.append(f"    return {body.awaited()}")
    source = "\n".join(
        [
            HEAD,
            *body.helpers,
            "@pikku_workflow_func",
            "async def flow(ctx: WorkflowContext) -> Any:",
            "    steps = ctx.workflow",
            "    do = ctx.workflow.do",
            "    a = total = 0",
            *lines,
            "",
            "wire_workflow(name='flow', func=flow)",
        ]
    )
    return source + "\n", body


def shown(graph: Any) -> Iterator[str]:
    """The names of the steps in a graph, and `?` for each part of it that is unknown."""
    if isinstance(graph, list):
        for each in graph:
            yield from shown(each)
    elif isinstance(graph, dict):
        if "unknown" in graph and not isinstance(graph["unknown"], bool):
            yield "?"
        if "step" in graph:
            name = graph.get("name", "")
            yield name if name and "{}" not in name else "?"
        for each in graph.values():
            yield from shown(each)


def project_in(folder: Path) -> Path:
    """An empty project; its app is the package `shop`."""
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', encoding="utf-8")
    return folder


def graph_of(folder: Path) -> Any:
    """The step graph of the only workflow, whatever else there is to say about the project."""
    project, _ = locate(read_settings(folder)[0])
    assert project is not None
    app, _ = _understand(project, Reader(project, open_cache(folder, "fuzz")))
    (flow,) = app.workflows
    return json.loads(json.dumps(flow.graph))


def test_every_step_of_a_body_is_in_its_graph(tmp_path: Path) -> None:
    folder = project_in(tmp_path)
    for draw in rounds(60, "body"):
        source, body = workflow(draw)
        ast.parse(source)
        (folder / "shop" / "flow.py").write_text(source, encoding="utf-8")

        found = Counter(shown(graph_of(folder)))

        missing = [name for name in body.steps if not found[name]]
        assert not missing, f"{missing} of\n{source}\nare not in {sorted(found)}"
        unseen = [name for name in body.odd if not found[name]]
        assert not unseen or found["?"], f"{unseen} of\n{source}\nare neither known nor unknown"
        assert_ends_well(run(folder))


@pytest.mark.parametrize(
    "line",
    [
        "await (w := ctx.workflow).do('S', work, 1)",
        "w, x = ctx.workflow, 1\nawait w.do('S', work, 1)",
        "for w in [ctx.workflow]:\n    await w.do('S', work, 1)",
        "with ctx.workflow as w:\n    await w.do('S', work, 1)",
        "w = ctx.workflow if a else None\nawait w.do('S', work, 1)",
        "box.w = ctx.workflow\nawait box.w.do('S', work, 1)",
        "box = {'w': ctx}\nawait box['w'].workflow.do('S', work, 1)",
        "await [ctx.workflow.do][0]('S', work, 1)",
        "await (ctx.workflow or None).do('S', work, 1)",
        "await ctx.workflow.saga().do('S', work, 1, undo=work)",
        "await helper(*[ctx])",
        "await helper(**{'ctx': ctx})",
        "await helper({'steps': ctx.workflow})",
        "x = lambda w=ctx.workflow: w.do('S', work, 1)\nawait x()",
        "class A:\n    def m(self):\n        return ctx.workflow.do('S', work, 1)\nawait A().m()",
    ],
)  # fmt: skip
def test_steps_of_a_context_that_is_lost_sight_of_are_unknown(tmp_path: Path, line: str) -> None:
    body = "\n".join(f"    {each}" for each in line.splitlines())
    flow = f"@pikku_workflow_func\nasync def flow(ctx: WorkflowContext) -> Any:\n{body}\n"
    folder = project_in(tmp_path)
    source = f"{HEAD}\n{flow}\nwire_workflow(name='flow', func=flow)\n"
    (folder / "shop" / "flow.py").write_text(source, encoding="utf-8")

    assert "?" in shown(graph_of(folder))


@pytest.mark.parametrize(
    "line",
    [
        "async def f(w):\n    await w.do('S', work, 1)\nawait f(ctx.workflow)",
        "async def f(n, *, w):\n    await w.workflow.do('S', work, n)\nawait f(1, w=ctx)",
        "async def f(x=ctx.workflow.do('S', work, 1)):\n    await x\nawait f()",
        "@ctx.workflow.do('S', work, 1)\ndef f(): ...",
        "class A(await ctx.workflow.do('S', work, 1)): ...",
        "try:\n    pass\nexcept (await ctx.workflow.do('S', work, 1)):\n    pass",
        "for x[await ctx.workflow.do('S', work, 1)] in y:\n    pass",
        "x[await ctx.workflow.do('S', work, 1)] += 1",
    ],
)
def test_a_step_in_an_odd_place_is_in_the_graph(tmp_path: Path, line: str) -> None:
    body = "\n".join(f"    {each}" for each in line.splitlines())
    flow = f"@pikku_workflow_func\nasync def flow(ctx: WorkflowContext) -> Any:\n{body}\n"
    folder = project_in(tmp_path)
    source = f"{HEAD}\n{flow}\nwire_workflow(name='flow', func=flow)\n"
    (folder / "shop" / "flow.py").write_text(source, encoding="utf-8")

    assert list(shown(graph_of(folder))) == ["S"]


def test_decorators_in_odd_places_end_in_a_package_or_in_words(tmp_path: Path) -> None:
    folder = project_in(tmp_path)
    for draw in rounds(80, "odd"):
        (folder / "shop" / "odd.py").write_bytes(odd_module(draw).encode())

        said = assert_ends_well(run(folder))

        assert assert_ends_well(run(folder)) == said


def test_a_mutated_source_ends_in_a_package_or_in_words(tmp_path: Path) -> None:
    projects = [project_of(case, tmp_path / "golden") for case in CASES]
    sample = tmp_path / "sample"
    shutil.copytree(ROOT / "sample_app", sample / "sample_app")
    settings = '[tool.pikku]\nroot = "shop"\nsource = ["sample_app"]\noutput = "out"\n'
    (sample / "pyproject.toml").write_text(settings, encoding="utf-8")
    files = [
        (project, file)
        for project in (*projects, sample, sample, sample)
        for file in sorted(project.rglob("*.py"))
        if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK)
    ]
    for draw in rounds(120, "bytes"):
        project, file = draw.choice(files)
        before = file.read_bytes()
        file.write_bytes(mangled(before, draw, draw.randint(1, 3)))

        said = assert_ends_well(run(project))

        if draw.random() < 0.3:
            assert assert_ends_well(run(project)) == said
        file.write_bytes(before)


def test_a_type_that_holds_itself_is_read(tmp_path: Path) -> None:
    folder = project_in(tmp_path)
    source = (
        HEAD
        + """
Json = int | list["Json"] | dict[str, "Json"]
Other = "list[Other] | Json"

@pikku_func
async def one(ctx: Context, data: Json) -> Other: ...
"""
    )
    (folder / "shop" / "types.py").write_text(source, encoding="utf-8")

    assert_ends_well(run(folder))


def test_a_name_that_no_file_can_hold_is_a_diagnostic(tmp_path: Path) -> None:
    folder = project_in(tmp_path)
    source = HEAD + "@pikku_func(name='a\\ud800')\nasync def one(ctx: Context) -> int: ...\n"
    (folder / "shop" / "odd.py").write_text(source, encoding="utf-8")

    outcome = run(folder)

    assert_ends_well(outcome)
    assert "PKG207" in [found.code for found in outcome.diagnostics]


# --- code of others -------------------------------------------------------------------------------


def installed() -> list[Path]:
    """Python files of the packages beside pikku: all of them, or a sample."""
    home = Path(sysconfig.get_path("purelib"))
    files = sorted(file for file in home.rglob("*.py") if file.stat().st_size < 2_000_000)
    if EVERY_PACKAGE:
        return files
    draw = Random(f"{SEED}/installed")
    small = [file for file in files if file.stat().st_size < 40_000]
    return draw.sample(small, min(len(small), round(50 * TIMES)))


def decorated(data: bytes, draw: Random) -> bytes:
    """The source with our decorators over its functions."""
    kinds = [b"pikku_func", b"pikku_workflow_func", b"pikku_func(retries=1)"]

    def over(found: re.Match[bytes]) -> bytes:
        return b"@" + draw.choice(kinds) + b"\n" + found[0]

    made = re.sub(rb"^(async )?def ", over, data, flags=re.MULTILINE)
    return made + b"\nfrom shop_pikku import pikku_func, pikku_workflow_func\n"


def test_any_installed_package_ends_in_a_package_or_in_words(tmp_path: Path) -> None:
    draw = Random(f"{SEED}/decorated")
    found = installed()
    for start in range(0, len(found), 100):
        folder = project_in(tmp_path / str(start))
        for number, file in enumerate(found[start : start + 100]):
            made = folder / "shop" / f"m{number}.py"
            made.write_bytes(decorated(file.read_bytes(), draw))

        try:
            assert_ends_well(run(folder))
        except Exception as error:
            raise AssertionError(f"{REPEAT}: one of {found[start : start + 100]}") from error

        shutil.rmtree(folder)
