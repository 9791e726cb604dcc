"""pikku: durable workflows whose types hold.

Applications import most names from their generated package; what is the same for every
application comes from here.
"""

from pikku._access import Action, RunAccess, Session
from pikku._app import App, QueueService, StoreQueueService
from pikku._calls import Call, Next
from pikku._contexts import FunctionContext, StepContext, WorkflowFunctionContext
from pikku._decisions import Approvers, Decision
from pikku._durations import Duration
from pikku._error_info import ErrorInfo
from pikku._functions import (
    BoundRpc,
    BoundWorkflow,
    ExternalWorkflow,
    Func,
    Registry,
    RpcAttributes,
    RpcRef,
    RpcRefAttributes,
    Workflow,
    WorkflowAttributes,
    WorkflowRef,
    external_workflow,
)
from pikku._history import RunInfo
from pikku._payloads import PayloadCodec
from pikku._queues import (
    BoundQueue,
    Job,
    JobInfo,
    QueueAttributes,
    QueueConfig,
    RateLimit,
    SyncBoundQueue,
    SyncJob,
)
from pikku._retry import Backoff
from pikku._run import Run, SyncRun
from pikku._saga import Saga, Undo
from pikku._settings import Config, EngineOptions, Work
from pikku._signals import Signal, SignalAttributes
from pikku._sync import SyncApp, SyncBoundWorkflow, sync_opener
from pikku._ticks import ScheduleInfo
from pikku._workflow import StepFailure, WorkflowSteps, WorkflowWire
from pikku.errors import (
    PermissionDeniedError,
    PikkuError,
    PublicError,
    RetryError,
    RunCancelledError,
    RunFailedError,
    SignalTimeoutError,
    StepFailedError,
    TerminalError,
    UnauthorizedError,
)

__version__ = "0.1.0"

__all__ = [
    # the app
    "App",
    "Config",
    "EngineOptions",
    "PayloadCodec",
    "QueueService",
    "Registry",
    "Work",
    "StoreQueueService",
    # what an author's code is given
    "FunctionContext",
    "StepContext",
    "StepFailure",
    "WorkflowFunctionContext",
    "WorkflowSteps",
    "WorkflowWire",
    "Decision",
    "Saga",
    "Signal",
    "Undo",
    # around functions, and from outside
    "Action",
    "Call",
    "Next",
    "RunAccess",
    "Session",
    # options
    "Approvers",
    "Backoff",
    "Duration",
    "QueueConfig",
    "RateLimit",
    "external_workflow",
    # runs and jobs
    "Job",
    "JobInfo",
    "Run",
    "RunInfo",
    "ScheduleInfo",
    "SyncJob",
    "SyncRun",
    # errors: the rest is in pikku.errors
    "ErrorInfo",
    "PermissionDeniedError",
    "PikkuError",
    "PublicError",
    "RetryError",
    "RunCancelledError",
    "RunFailedError",
    "SignalTimeoutError",
    "StepFailedError",
    "TerminalError",
    "UnauthorizedError",
    # what generated code is made of
    "BoundQueue",
    "BoundRpc",
    "BoundWorkflow",
    "ExternalWorkflow",
    "Func",
    "QueueAttributes",
    "RpcAttributes",
    "RpcRef",
    "RpcRefAttributes",
    "SignalAttributes",
    "SyncApp",
    "SyncBoundQueue",
    "SyncBoundWorkflow",
    "Workflow",
    "WorkflowAttributes",
    "WorkflowRef",
    "sync_opener",
]
