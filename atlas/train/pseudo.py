"""Pseudo-labels: what a trained model sees of the classes that cases of a corpus lack, written into the corpus.

What people annotated is never written over; see `atlas.corpus.complete`.
"""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from atlas.corpus.catalog import write_catalog
from atlas.corpus.complete import PSEUDO, complete, lacking
from atlas.corpus.corpus import Corpus, open_corpus
from atlas.corpus.journal import journal
from atlas.corpus.write import array_digest, clean, write_case
from atlas.errors import AtlasError, CorpusError, SpecError
from atlas.stream.select import select
from atlas.train.compatible import check_corpus
from atlas.train.masks import predicted_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from atlas.corpus.case import Case
    from atlas.corpus.record import CaseRecord
    from atlas.train.run import Trained

    Progress = Callable[[int, int, "Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    state
        "labelled", "kept" (there was nothing to add), or "failed": the case is as it was.
    classes
        That were added or replaced.
    reason
        Why it failed.
    seconds
        Wall time.
    trace
        Of an error that atlas does not know; for the log.
    """

    case_id: str
    state: Literal["labelled", "kept", "failed"]
    classes: tuple[str, ...] = ()
    reason: str | None = None
    seconds: float = 0.0
    trace: str | None = None


def pseudo_label(
    trained: Trained,
    corpus: str | Path,
    *,
    split: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    overlap: float = 0.5,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Give cases of a corpus pseudo labels of the classes that they lack.

    A class is predicted where it is unavailable, and where it has a pseudo label of another model, which it replaces.
    A case that has all of them from this model is left as it is, so that an interrupted run goes on. One that fails is
    reported and left as it is. The catalog is brought up to date at the end.

    Parameters
    ----------
    trained
        The model, on the device to predict on.
    corpus
        Folder of the corpus.
    split, datasets
        Cases, as for `atlas.stream.select.select`; None: all.
    classes
        Of the model's; None: all of them.
    overlap
        Fraction of a window that the next one repeats.
    progress
        Called after each case: how many are done, of how many, and what became of it.

    Raises
    ------
    CorpusError
        If the corpus is not a folder, is damaged, has another grid or lacks a class, or if no case is selected.
    SpecError
        If the model has no such class.
    BuildError
        If another process writes to the corpus.
    """
    names = _named(trained, classes)
    opened = _opened(corpus)
    check_corpus(trained, opened, names)
    folder = Path(opened.location)
    cases = select(opened, split=split, datasets=datasets).case_ids.tolist()
    outcomes = []
    with journal(folder) as log:
        clean(folder)
        try:
            for done, case_id in enumerate(cases, start=1):
                outcomes.append(_outcome(trained, opened, case_id, names, overlap))
                log.write(json.dumps(asdict(outcomes[-1]), ensure_ascii=False) + "\n")
                log.flush()
                if progress is not None:
                    progress(done, len(cases), outcomes[-1])
        finally:
            clean(folder)
            write_catalog(folder, opened.taxonomy, opened.recipe.splits)
    return outcomes


def model_name(trained: Trained) -> str:
    """What a pseudo label says of the model that made it: its recipe, and the sha256 of its weights."""
    return f"{trained.description.recipe.name} sha256:{trained.digest}"


def _named(trained: Trained, classes: Sequence[str] | None) -> tuple[str, ...]:
    names = trained.classes if classes is None else tuple(dict.fromkeys(classes))
    if strange := [name for name in names if name not in trained.classes]:
        raise SpecError(
            f"{trained.folder}: the model does not know {', '.join(strange)}; its classes are: "
            f"{', '.join(trained.classes)}"
        )
    return names


def _opened(corpus: str | Path) -> Corpus:
    if "://" in str(corpus):
        raise CorpusError(f"{corpus}: pseudo labels are written into a folder; copy the corpus to a disk first")
    return open_corpus(corpus)


def _outcome(trained: Trained, corpus: Corpus, case_id: str, names: Sequence[str], overlap: float) -> Outcome:
    """Label a case. Never raises: a bad case is an outcome."""
    start, trace = time.perf_counter(), None
    try:
        added = _label(trained, corpus, case_id, names, overlap)
        return Outcome(case_id, "labelled" if added else "kept", added, None, time.perf_counter() - start)
    except (AtlasError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
    except Exception as error:
        reason, trace = f"unexpected {type(error).__name__}: {error}", traceback.format_exc()
    return Outcome(case_id, "failed", (), reason, time.perf_counter() - start, trace)


def _label(trained: Trained, corpus: Corpus, case_id: str, names: Sequence[str], overlap: float) -> tuple[str, ...]:
    """Write what a case lacks; returns the classes."""
    case = corpus[case_id]
    wanted = _wanted(case.record, names, model_name(trained))
    if not wanted:
        return ()
    ct, codes = _arrays(case)
    # all classes of the model: some rules of post-processing need those that are not wanted
    masks = predicted_masks(trained, ct, trained.classes, trained.description.recipe.postprocess, overlap)
    done = complete(
        case.record,
        ct=ct,
        codes=codes,
        table=tuple(zip(case.table, case.unknown_table, strict=True)),
        foreground=case.foreground,
        predictions={name: mask for name, mask in zip(trained.classes, masks, strict=True) if name in wanted},
        model=model_name(trained),
        taxonomy=corpus.taxonomy,
        samples=corpus.recipe.storage.foreground,
    )
    write_case(
        Path(corpus.location),
        done.record,
        ct=ct,
        codes=done.codes,
        table=done.table,
        foreground=done.foreground,
        taxonomy=corpus.taxonomy,
        storage=corpus.recipe.storage,
    )
    return wanted


def _wanted(record: CaseRecord, names: Sequence[str], model: str) -> tuple[str, ...]:
    """Classes that a case lacks, or has of another model."""
    own = {c.name for c in record.classes if c.provenance == PSEUDO and c.model == model}
    return tuple(name for name in lacking(record, names) if name not in own)


def _arrays(case: Case) -> tuple[NDArray[np.int16], NDArray[np.unsignedinteger]]:
    """CT and codes (z, y, x): what the record says they are, for they are written again under new hashes."""
    ct, codes = np.asarray(case.ct[...]), np.asarray(case.codes[...])
    if array_digest(ct) != case.record.ct_sha256 or array_digest(codes) != case.record.codes_sha256:
        raise CorpusError(f"{case.case_id}: the case is damaged (its hashes differ); build it again")
    return ct, codes
