"""How good a trained model is on the cases of a corpus that it was not trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd

from atlas.errors import AtlasError, CorpusError
from atlas.spec.training import PostprocessSpec
from atlas.stream.select import select
from atlas.train.compatible import check_corpus
from atlas.train.evaluation.score import score_case
from atlas.train.evaluation.tables import SCORES
from atlas.train.evaluation.truth import TRUSTED, packed_masks, scored_classes, truths
from atlas.train.masks import predicted_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atlas.corpus import Case, Corpus
    from atlas.stream.select import CaseIndex
    from atlas.train.evaluation.score import Score
    from atlas.train.run import Trained

    Names = str | Sequence[str]
    Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Method:
    """How it was evaluated.

    Attributes
    ----------
    grid
        On which masks were compared: that of the corpus, or that of each scan as published.
    tolerance_mm
        Of the surface Dice.
    overlap
        Fraction of a window that the next one repeats.
    postprocess
        What was done to predicted masks.
    provenance
        Annotations that count as truth.
    """

    grid: Literal["corpus", "native"]
    tolerance_mm: float
    overlap: float
    postprocess: PostprocessSpec
    provenance: tuple[str, ...]


class Scorer(Protocol):
    """Predicts a case and compares it with the truth on some grid."""

    @property
    def grid(self) -> Literal["corpus", "native"]:
        """Which grid."""
        ...

    def __call__(self, trained: Trained, case: Case, names: Sequence[str], method: Method) -> list[Score]:
        """Scores of those of the classes that have a truth there; errors say why there is none."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out.

    Attributes
    ----------
    trained, corpus
        What was evaluated, on what.
    selection
        Splits and datasets that were asked for; None: all.
    method
        How.
    scores
        One row a case and class, see `atlas.train.evaluation.tables.SCORES`.
    failures
        Cases that could not be read or predicted, and why.
    unlabelled
        Cases none of whose classes the model has, or none with a provenance that counts: they say nothing.
    unscored
        Classes of the model that no case could be scored on.
    """

    trained: Trained
    corpus: Corpus
    selection: dict[str, tuple[str, ...] | None]
    method: Method
    scores: pd.DataFrame
    failures: dict[str, str]
    unlabelled: tuple[str, ...]
    unscored: tuple[str, ...]


def evaluate(
    trained: Trained,
    corpus: Corpus,
    *,
    split: Names | None = "test",
    datasets: Names | None = None,
    tolerance_mm: float = 2.0,
    overlap: float = 0.5,
    postprocess: bool = True,
    provenance: Sequence[str] = TRUSTED,
    progress: Progress | None = None,
    scorer: Scorer | None = None,
) -> Evaluation:
    """Predict cases one after the other, and score every class that is available there.

    A case that cannot be read or predicted is noted, and the evaluation goes on.

    Parameters
    ----------
    trained
        The model, on its device.
    corpus
        On the grid of the model, with its classes.
    split, datasets
        Names, one or several; None: all.
    tolerance_mm
        Of the surface Dice.
    overlap
        Fraction of a window that the next one repeats.
    postprocess
        Whether masks are post-processed as the run's recipe says.
    provenance
        Annotations that count as truth.
    progress
        Told (cases done, cases in all, case id).
    scorer
        What predicts and compares; None: on the grid of the corpus. `atlas.predict.evaluate.NativeScorer` does so on
        the scans' own.

    Raises
    ------
    CorpusError
        If the corpus has another grid or other classes than the model, if no case is selected, or none can be scored.
    """
    check_corpus(trained, corpus)
    spec = trained.description.recipe.postprocess if postprocess else PostprocessSpec()
    scorer = scorer or CorpusScorer()
    method = Method(scorer.grid, tolerance_mm, overlap, spec, tuple(provenance))
    index = select(corpus, split=split, datasets=datasets)
    about = _about_cases(corpus, index)
    rows: list[dict[str, object]] = []
    failures: dict[str, str] = {}
    unlabelled = []
    for number, case_id in enumerate(about, start=1):
        try:
            found = _case_rows(trained, corpus[case_id], method, scorer)
            rows += [{"case_id": case_id, **about[case_id], **row} for row in found]
            unlabelled += [] if found else [case_id]
        except AtlasError as error:
            failures[case_id] = str(error)
        except Exception as error:  # whatever is wrong with one case, hours of others are not lost
            failures[case_id] = f"{type(error).__name__}: {error}"
        if progress is not None:
            progress(number, len(index), case_id)
    if not rows:
        raise _nothing(corpus, failures, method, len(index))
    scored = Counter(str(row["class"]) for row in rows)
    return Evaluation(
        trained,
        corpus,
        {"split": _several(split), "datasets": _several(datasets)},
        method,
        pd.DataFrame(rows, columns=list(SCORES)).astype(SCORES),
        failures,
        tuple(unlabelled),
        tuple(name for name in trained.classes if name not in scored),
    )


def _about_cases(corpus: Corpus, index: CaseIndex) -> dict[str, dict[str, object]]:
    """Dataset and patient of each selected case, by case id."""
    table = corpus.sql("select case_id, group_id from cases")
    groups = dict(zip(table["case_id"], table["group_id"], strict=True))
    datasets = [index.datasets[number] for number in index.dataset.tolist()]
    return {
        case_id: {"dataset": dataset, "group": groups[case_id]}
        for case_id, dataset in zip(index.case_ids.tolist(), datasets, strict=True)
    }


def _case_rows(trained: Trained, case: Case, method: Method, scorer: Scorer) -> list[dict[str, object]]:
    names = scored_classes(case, trained.classes, method.provenance)
    if not names:
        return []
    provenance = {c.name: c.provenance for c in case.record.classes}
    return [
        {
            "class": score.name,
            "kind": case.taxonomy.by_name[score.name].kind,
            "provenance": provenance[score.name],
            **{k: v for k, v in score._asdict().items() if k != "name"},
        }
        for score in scorer(trained, case, names, method)
        if score.known  # a class of which nothing is known cannot be scored
    ]


class CorpusScorer:
    """Compares on the grid of the corpus."""

    grid: Literal["corpus", "native"] = "corpus"

    def __call__(self, trained: Trained, case: Case, names: Sequence[str], method: Method) -> list[Score]:
        """Scores of all the classes."""
        # rules of post-processing look at other classes: the organ of a lesion, the other side
        wanted = list(names) if method.postprocess == PostprocessSpec() else list(trained.classes)
        masks = predicted_masks(trained, np.asarray(case.ct[...]), wanted, method.postprocess, method.overlap)
        chosen = (masks[wanted.index(name)] for name in names)
        truth = truths(packed_masks(case), names, case.taxonomy)
        return score_case(chosen, truth, (case.spacing,) * 3, method.tolerance_mm)


def _nothing(corpus: Corpus, failures: dict[str, str], method: Method, cases: int) -> CorpusError:
    if failures:
        case_id, reason = next(iter(failures.items()))
        return CorpusError(
            f"{corpus.location}: nothing could be scored, {len(failures)} of {cases} cases failed; {case_id}: {reason}"
        )
    return CorpusError(
        f"{corpus.location}: none of the {cases} selected cases has a class of the model that is "
        f"{' or '.join(method.provenance)}; choose another split or provenance"
    )


def _several(names: Names | None) -> tuple[str, ...] | None:
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)
