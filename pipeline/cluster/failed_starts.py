"""Workers that die while they start: after how many the work ends, and with which error."""

from __future__ import annotations

from pipeline.errors import InputError


class FailedStarts:
    """Failed starts in a row.

    Args:
        most: failed starts in a row after which the work ends.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._in_a_row, self._has_started = 0, False

    def end(self) -> None:
        """Say that a worker has started."""
        self._in_a_row, self._has_started = 0, True

    def count(self, error: Exception, *, is_bug: bool) -> None:
        """Count a worker that died while it started.

        Args:
            error: the error that Ray reports.
            is_bug: True if the worker's ``__init__`` raised.

        Raises:
            InputError: if the worker refused its input, and none has started before.
            RuntimeError: if too many died, or if ``__init__`` raised and none has started before.
        """
        self._in_a_row += 1
        last_line = str(error).strip().splitlines()[-1]
        kind, _, message = last_line.partition(": ")
        # If workers have started before, a refusal is due to the node and not to the input.
        if kind.endswith("InputError") and not self._has_started:
            raise InputError(message) from error
        # The loss of a node kills all workers that start there, so one loss counts many times.
        if self._in_a_row >= self.most or (is_bug and not self._has_started):
            raise RuntimeError(
                f"No worker could start: {self._in_a_row} in a row failed. Error of the last "
                f"one: {last_line}"
            ) from error
