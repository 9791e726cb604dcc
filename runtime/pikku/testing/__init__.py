"""What pikku is tested with, for the tests of applications."""

from pikku.testing.clock import FakeClock
from pikku.testing.lab import WorkflowLab

__all__ = ["FakeClock", "WorkflowLab"]
