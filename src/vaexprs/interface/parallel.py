"""Run calls in parallel and yield their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def in_order(submitted: Iterable[Callable[[], T]], window: int, wait: Callable[[T], Any]) -> Iterator[Any]:
    """Yield the results of parallel calls in the order of submission.

    Parameters
    ----------
    submitted
        Functions that each start a call and return its future.
    window
        Maximum number of calls that are started and whose result has not been yielded.
    wait
        Function that waits for a future and returns its result.
    """
    waiting: deque[T] = deque()
    for submit in submitted:
        if len(waiting) >= window:
            yield wait(waiting.popleft())
        waiting.append(submit())
    while waiting:
        yield wait(waiting.popleft())
