"""What pikku is tested with, for the tests of applications."""

from pikku.testing.clock import FakeClock
from pikku.testing.lab import Fakes, WorkflowLab
from pikku.testing.replays import assert_replays

__all__ = ["FakeClock", "Fakes", "WorkflowLab", "assert_replays"]
