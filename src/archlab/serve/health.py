"""Whether an engine answers: a failure turns it red until it works again; probes that fail mean that it will not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Health:
    """Counts failures in a row: that of a batch once, and then those of the probes which look after the engine.

    Further batches say nothing new: after one the calls in it are tried one by one, all within a moment.

    Args:
        fatal: so many in a row, and the process should be replaced.

    Attributes:
        failures: in a row.
    """

    fatal: int
    failures: int = 0

    def failed(self) -> None:
        """A batch failed."""
        self.failures = max(1, self.failures)

    def not_healed(self) -> None:
        """A probe failed."""
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
