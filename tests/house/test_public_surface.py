"""The public door of the runtime, name by name."""

from __future__ import annotations

import inspect

import pikku
import pikku.errors
import pikku.testing

PUBLIC = """
    Action App Approvers Backoff BoundQueue BoundRpc BoundWorkflow Call Config Decision Duration
    EngineOptions ErrorInfo ExternalWorkflow Func FunctionContext Job JobInfo Next PayloadCodec
    PermissionDeniedError PikkuError PublicError QueueAttributes QueueConfig QueueService
    RateLimit Registry RetryError RpcAttributes RpcRef RpcRefAttributes Run RunAccess
    RunCancelledError RunFailedError RunInfo Saga ScheduleInfo Session Signal SignalAttributes
    SignalTimeoutError StepContext StepFailedError StepFailure StoreQueueService SyncApp
    SyncBoundQueue SyncBoundWorkflow SyncJob SyncRun TerminalError UnauthorizedError Undo Work
    Workflow WorkflowAttributes WorkflowFunctionContext WorkflowRef WorkflowSteps WorkflowWire
    external_workflow sync_opener
""".split()


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(pikku.__all__) == sorted(PUBLIC)
    assert all(hasattr(pikku, name) for name in PUBLIC)


def test_the_testing_kit_has_exactly_these_names() -> None:
    assert sorted(pikku.testing.__all__) == [
        "FakeClock",
        "Fakes",
        "WorkflowLab",
        "assert_replays",
    ]


def test_every_public_class_says_what_it_promises() -> None:
    silent: list[str] = []
    for name in PUBLIC:
        thing = getattr(pikku, name)
        if not inspect.isclass(thing):
            continue
        if not inspect.getdoc(thing):
            silent.append(name)
        for member, value in vars(thing).items():
            function = value.fget if isinstance(value, property) else value
            if (
                not member.startswith("_")
                and inspect.isfunction(function)
                and function.__module__.startswith("pikku")
                and not inspect.getdoc(function)
            ):
                silent.append(f"{name}.{member}")
    assert not silent


def test_every_error_is_drawn_in_the_tree() -> None:
    tree = pikku.errors.__doc__ or ""
    missing = [
        name
        for name, thing in vars(pikku.errors).items()
        if inspect.isclass(thing)
        and issubclass(thing, BaseException)
        and thing.__module__ == "pikku.errors"
        and name not in tree
    ]
    assert not missing
