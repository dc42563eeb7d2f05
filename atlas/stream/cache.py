"""The most recently used things, so many bytes of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Cache(Generic[T]):
    """Keeps what was made last; threads may share it.

    Parameters
    ----------
    limit
        Bytes; at least the newest thing is kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str, make: Callable[[], tuple[T, int]]) -> T:
        """What is kept under a key; else what `make` returns with its bytes. Two threads may make the same thing."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
                return found[0]
        made = make()
        with self._lock:
            self._forget(key)
            self._items[key] = made
            self._bytes += made[1]
            while self._bytes > self.limit and len(self._items) > 1:
                self._forget(next(iter(self._items)))
        return made[0]

    def forget(self, key: str) -> None:
        """Drop one thing, if it is there."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: str) -> None:
        _, size = self._items.pop(key, (None, 0))
        self._bytes -= size
