"""What pikku is tested with, for the tests of applications."""

from pikku.testing.clock import FakeClock
from pikku.testing.lab import WorkflowLab
from pikku.testing.replays import assert_replays

__all__ = ["FakeClock", "WorkflowLab", "assert_replays"]
