"""Deadlines of anytime optimisers."""

from __future__ import annotations

import time

from torch import Tensor


class Pace:
    """Whether there is time for another iteration before a deadline [s of `time.monotonic`]; always without one."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline, self._longest = deadline, 0.0
        self._before: float | None = None

    def allows_another(self, result: Tensor) -> bool:
        """Asked before every iteration, with a result of the last one.

        The first one is always allowed, since there is nothing else to return.
        """
        if self._deadline is None:
            return True
        result.cpu()  # waits for a GPU, which has only been told what to do
        now, before = time.monotonic(), self._before
        self._before = now
        if before is None:
            return True
        self._longest = max(self._longest, now - before)
        return now + self._longest <= self._deadline
