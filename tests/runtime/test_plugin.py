"""The pytest plugin: labs in the tests of an application, under pytest-asyncio and under anyio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

APP = """
from typing import Any

from pikku import App, FunctionContext, Registry, WorkflowFunctionContext, WorkflowWire

registry = Registry("tea_app")
app: App[Any] = App(registry=registry, package="tea_app")


@registry.pikku_func
async def pour(ctx: FunctionContext[Any, Any], cups: int) -> int:
    return cups


async def tea(ctx: WorkflowFunctionContext[Any, Any, WorkflowWire], cups: int) -> int:
    await ctx.workflow.sleep("Let it draw", "3d")
    return await ctx.workflow.do("Pour", pour, cups)


registry.wire_workflow(name="tea", func=registry.pikku_workflow_func(tea))
"""

TEST = """
import pytest
from tea_app import app
{header}

{mark}
async def test_three_days_take_no_time(workflow_lab):
    async with workflow_lab() as lab:
        lab.crash_after("Pour")
        run = await app.start_workflow("tea", 2)
        await lab.recover()
        assert await run.result() == 2
        assert lab.executions("Pour") == 1
        print("store:", lab.store_url, lab.queue_service)
"""

UNDER_ASYNCIO = TEST.format(header="", mark="@pytest.mark.asyncio")
UNDER_ANYIO = TEST.format(
    header="""
@pytest.fixture
def anyio_backend():
    return "asyncio"
""",
    mark="@pytest.mark.anyio",
)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(tea_app=APP)
    pytester.makeini("[pytest]\npikku_app = tea_app\npythonpath = .\n")
    return pytester


@pytest.mark.parametrize("queue_service", ["none", "store"])
@pytest.mark.parametrize("store", ["memory://", "sqlite:///lab.db"])
@pytest.mark.parametrize(
    ("source", "without"),
    [(UNDER_ASYNCIO, "anyio"), (UNDER_ANYIO, "asyncio")],
    ids=["asyncio", "anyio"],
)
def test_a_lab_works_under_either_plugin_on_the_store_of_choice_in_both_modes(
    project: pytest.Pytester, source: str, without: str, store: str, queue_service: str
) -> None:
    project.makepyfile(source)
    result = project.runpytest_subprocess(
        "-s",
        "-p",
        f"no:{without}",
        "-p",
        "no:xdist",
        f"--pikku-store={store}",
        f"--pikku-queue-service={queue_service}",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*store: {store} {queue_service}*"])


def test_without_an_app_the_message_says_what_to_write(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(pikku_app): pass")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*write pikku_app = shop_pikku*"])


def test_assert_replays_takes_a_file_and_fails_with_the_difference(
    project: pytest.Pytester, tmp_path: Path
) -> None:
    project.makepyfile(
        """
        import asyncio, json
        from pathlib import Path
        import tea_app
        from pikku.testing import WorkflowLab

        def test_record():
            async def record():
                async with WorkflowLab(tea_app.app) as lab:
                    run = await tea_app.app.start_workflow("tea", 2)
                    await run.result()
                    return await run.export()
            Path("tea.json").write_text(json.dumps(asyncio.run(record())))

        def test_same_code(assert_replays):
            assert_replays("tea.json")

        def test_other_code(assert_replays):
            async def tea(ctx, cups: int) -> int:
                return await ctx.workflow.do("Pour", tea_app.pour, cups)
            registry = tea_app.registry
            registry.workflows.pop("tea")
            registry.wire_workflow(name="tea", func=registry.pikku_workflow_func(tea))
            assert_replays(Path("tea.json"))
        """
    )
    result = project.runpytest_subprocess("-p", "no:xdist")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*ReplayDivergedError*step 'Let it draw'*"])
    assert json.loads((project.path / "tea.json").read_text())["pikku"] == "run"
