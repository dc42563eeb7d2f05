"""When a request is tried again, and how long to wait before; the clock and the dice in one place."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from atlas.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_YEAR = 365 * 86400.0


@dataclass
class Policy:
    """How patient requests are; durations in seconds. Tests exchange single fields."""

    tries: int = 8
    """In a row without progress, before a download is given up."""
    first: float = 1.0
    """First wait; doubled with every try without progress."""
    longest: float = 60.0
    """Longest wait of its own accord."""
    longest_asked: float = 300.0
    """Longest wait that a server may ask for; beyond it the person is told when to come back."""
    progress: int = 64 * 1024
    """Bytes beyond the farthest point reached so far that count as progress."""
    connect: float = 30.0
    read: float = 60.0
    """Silence of the server in the middle of an answer."""
    redirects: int = 10
    spare: int = 256 * 2**20
    """Bytes left free on the disk."""
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


policy = Policy()


class Transient(Exception):  # noqa: N818 - never reaches a user
    """A failure that may be over at the next try.

    Attributes
    ----------
    after
        Seconds that the server asks to wait, if it does.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Patience:
    """Counts the tries of one file; progress makes it start again.

    Parameters
    ----------
    name
        Of what is fetched, for messages.
    reached
        Bytes that are there already.
    """

    def __init__(self, name: str, reached: int = 0) -> None:
        self.name = name
        self.reached = reached
        self.tries = 0

    def wait(self, problem: Transient, done: int) -> None:
        """Wait before the next try.

        Parameters
        ----------
        problem
            What went wrong.
        done
            Bytes there are now. Only what lies beyond the farthest point so far is progress: a server that always
            begins at the start and always breaks off is given up.

        Raises
        ------
        FetchError
            After too many tries, or if the server asks for more time than is sensible to wait.
        """
        if done >= self.reached + policy.progress:
            self.reached = done
            self.tries = 0
        self.tries += 1
        if self.tries >= policy.tries:
            kept = f" {done:,} bytes are kept: run it again to go on from there." if done else " Try again later."
            raise FetchError(f"{self.name}: {problem}. Given up after {self.tries} tries.{kept}") from problem
        seconds = self._seconds(problem)
        _log.info("%s: %s; next try in %.1f s", self.name, problem, seconds)
        policy.sleep(seconds)

    def _seconds(self, problem: Transient) -> float:
        """Half of the wait is left to chance, so that many workers do not come back at the same moment."""
        own = min(policy.longest, policy.first * 2.0 ** (self.tries - 1)) * (0.5 + policy.random() / 2)
        asked = problem.after or 0.0
        if asked > policy.longest_asked:
            back = datetime.fromtimestamp(policy.now().timestamp() + asked, UTC)
            raise FetchError(
                f"{self.name}: {problem}. The server asks to come back in {asked / 60:.0f} minutes "
                f"(at {back:%Y-%m-%d %H:%M} UTC); run it again then, and it goes on where it was."
            ) from problem
        return max(own, asked)


def asked_wait(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or an HTTP date); None: it says nothing."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), _YEAR)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - policy.now()).total_seconds()), _YEAR)
