"""A wish to stop that comes as a signal: the step is finished first."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What a scheduler sends before it takes a node away, and Ctrl-C."""


class StopWish:
    """Whether one of `SIGNALS` has come.

    Parameters
    ----------
    alone
        A second Ctrl-C does not wait for the step. Not so under torchrun, which passes on what all were sent already.

    Attributes
    ----------
    signal
        Its name; None: nobody wants to stop.
    """

    def __init__(self, *, alone: bool) -> None:
        self.signal: str | None = None
        self._alone = alone

    def __bool__(self) -> bool:
        return self.signal is not None

    def take(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal."""
        if self._alone and number == signal.SIGINT and self.signal == "SIGINT":
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stop_wish(*, alone: bool) -> Iterator[StopWish]:
    """Take note of `SIGNALS` instead of dying of them, where this is the main thread; others get none."""
    wish = StopWish(alone=alone)
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish.take) for number in SIGNALS}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
