"""Whether an engine answers: one failure turns it red until it works again, and many in a row mean that it will not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Health:
    """Counts failures in a row.

    Args:
        fatal: so many in a row, and the process should be replaced.

    Attributes:
        failures: in a row.
    """

    fatal: int
    failures: int = 0

    def failed(self) -> None:
        """A batch or a probe failed."""
        self.failures += 1

    def worked(self) -> None:
        """A batch or a probe worked."""
        self.failures = 0

    @property
    def ready(self) -> bool:
        """Whether the last batch or probe worked."""
        return not self.failures

    @property
    def alive(self) -> bool:
        """Whether it may still heal."""
        return self.failures < self.fatal
