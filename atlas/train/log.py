"""What happened: RUN/log.jsonl, and the same for TensorBoard.

A line for each step, such as
{"step": 12, "loss": 0.91, "dice": 0.6, "bce": 0.3, "lr": 0.0004, "norm": 1.2, "seconds": 0.4, "rate": 5, ...}, and now
and then one of
{"step": 100, "classes": {"liver": 0.93, ...}}, soft Dice of the patches since the last such line,
{"step": 100, "validation": 0.81, "best": true}, and
{"step": 100, "note": "..."}.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Self

from torch.utils.tensorboard import SummaryWriter

from atlas.train.run import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LOG, BOARD = "log.jsonl", "tensorboard"


class Log:
    """Log of a run, to be closed.

    Parameters
    ----------
    run
        Folder of the run; None: nothing is written.
    step, validated
        Where the run goes on: what was logged of later steps will come again, and is taken out first.
    """

    def __init__(self, run: Path | None, step: int, validated: int) -> None:
        self._file = self._board = None
        if run is None:
            return
        path = run / LOG
        if path.exists():
            replace(path, "".join(_kept(path.read_text().splitlines(), step, validated)).encode())
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / BOARD), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()

    def write(self, step: int, **entries: Any) -> None:  # noqa: ANN401
        """Log what is known after a step; numbers go to TensorBoard as well, those of mappings each by its name."""
        if self._file is None or self._board is None:
            return
        line = {"step": step, **{name: _plain(value) for name, value in entries.items()}}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in entries.items():
            for tag, number in _numbers(name, value):
                self._board.add_scalar(tag, number, step)


def _numbers(name: str, value: Any) -> list[tuple[str, float]]:  # noqa: ANN401
    if isinstance(value, dict):
        return [(f"{name}/{key}", number) for key, number in value.items()]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _plain(value: Any) -> Any:  # noqa: ANN401
    """For JSON, which has neither infinite numbers nor NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return {name: _plain(v) for name, v in value.items()} if isinstance(value, dict) else value


def _kept(lines: Iterable[str], step: int, validated: int) -> Iterable[str]:
    """Lines of what will not be done again; the last one may be half written."""
    for line in lines:
        try:
            entry: Mapping[str, Any] = json.loads(line)
            then = entry["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if then < step or (then == step and ("validation" not in entry or validated == step)):
            yield line + "\n"
