"""The log beside a corpus, and by it the right to write to the corpus."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atlas.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO


@contextmanager
def journal(corpus: Path) -> Iterator[TextIO]:
    """Log beside the corpus (durations and traces would make equal corpora differ); also the lock of who writes to it.

    Raises
    ------
    BuildError
        If another process writes to the corpus.
    """
    corpus.parent.mkdir(parents=True, exist_ok=True)
    path = corpus.with_name(f"{corpus.name}.log.jsonl")
    with path.open("a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BuildError(
                f"{corpus}: another build is at work on it, or a model is completing it; wait for it, or stop it"
            ) from error
        corpus.mkdir(exist_ok=True)
        yield log
