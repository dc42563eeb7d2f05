"""Which cases patches come from, and what a sampler must know about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.corpus.layout import WORD
from atlas.errors import CorpusError
from atlas.spec.label_map import PROVENANCES
from atlas.stream.provenance import counting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from atlas.corpus.corpus import Corpus

    Names = str | Sequence[str]
    Filters = Iterator[tuple[str, NDArray[np.bool_]]]

CONDITION = "select case_id from cases where "
"""What a condition of the user is appended to."""


@dataclass(frozen=True, eq=False)
class CaseIndex:
    """Cases in arrays, sorted by case id: 20,000 cases of 100 present classes take about 8 MB.

    Attributes
    ----------
    case_ids
        str (n,).
    datasets
        Names of the datasets that have a case here, sorted.
    dataset
        int32 (n,): position in `datasets`.
    shape
        int32 (n, 3): (z, y, x) voxels.
    body
        int32 (n, 6): (z0, y0, x0, z1, y1, x1) voxels, half open; the whole volume where no body was found.
    available
        uint32 (n, words): bit k % 32 of word k // 32 says that class k was annotated, by a label that counts.
    starts, bits
        int64 (n + 1,) and int16 (m,): the classes present in case i are bits[starts[i]:starts[i + 1]], ascending.
    """

    case_ids: NDArray[np.str_]
    datasets: tuple[str, ...]
    dataset: NDArray[np.int32]
    shape: NDArray[np.int32]
    body: NDArray[np.int32]
    available: NDArray[np.uint32]
    starts: NDArray[np.int64]
    bits: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.case_ids)

    @property
    def owner(self) -> NDArray[np.int64]:
        """int64 (m,): the case that each of `bits` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def annotated(self, bit: int) -> NDArray[np.bool_]:
        """Whether a class is available, bool (n,)."""
        result: NDArray[np.bool_] = (self.available[:, bit // WORD] >> np.uint32(bit % WORD) & 1).astype(bool)
        return result

    def holding(self, bit: int) -> NDArray[np.bool_]:
        """Whether a class is present, bool (n,)."""
        result = np.zeros(len(self), bool)
        result[self.owner[self.bits == bit]] = True
        return result

    def take(self, chosen: NDArray[np.bool_]) -> CaseIndex:
        """Only these cases, bool (n,), and the datasets that have any of them."""
        used, dataset = np.unique(self.dataset[chosen], return_inverse=True)
        sizes = np.diff(self.starts)
        return CaseIndex(
            case_ids=self.case_ids[chosen],
            datasets=tuple(self.datasets[i] for i in used),
            dataset=dataset.astype(np.int32),
            shape=self.shape[chosen],
            body=self.body[chosen],
            available=self.available[chosen],
            starts=np.concatenate([[0], np.cumsum(sizes[chosen])]).astype(np.int64),
            bits=self.bits[np.repeat(chosen, sizes)],
        )


def select(
    corpus: Corpus,
    *,
    split: Names | None = None,
    datasets: Names | None = None,
    available: Names = (),
    present: Names = (),
    licence: Names | None = None,
    where: str | None = None,
    provenance: Names = PROVENANCES,
) -> CaseIndex:
    """Cases that pass all filters. Reads the catalog in two queries, and one more for each of `where`, `provenance`.

    Parameters
    ----------
    corpus
        Whose cases.
    split, datasets, licence
        Names as in the catalog, one or several; None: all.
    available
        Classes all of which must have been annotated.
    present
        Classes all of which must have a voxel.
    where
        SQL condition over the columns of the table `cases`, such as
        "hu_max > 200 and list_contains(present, 'liver_tumor')".
    provenance
        Labels that count: "manual", "revised", "pseudo", one or several. A class of a case that has another one is
        unavailable there, for `available` and `present` too; `where` sees the catalog as it is.

    Raises
    ------
    CorpusError
        If no case is left (it says after which filter), if a name is not of this corpus (it lists those that
        are), or if the condition is not one.
    SpecError
        If a class is not of the taxonomy, or there is no such provenance.
    """
    table = _table(corpus)
    index = counting(corpus, _index(corpus, table), _several(provenance))
    chosen = np.ones(len(index), bool)
    left = [f"{len(index)} in the corpus"]
    filters = (
        *_named(table, split=split, dataset=datasets, licence=licence),
        *_labelled(corpus, index, _several(available), _several(present)),
        *_conditional(corpus, index, where),
    )
    for text, passed in filters:
        chosen &= passed
        left.append(f"{chosen.sum()} after {text}")
    if not chosen.any():
        raise CorpusError(f"{corpus.location}: no case is left; cases: {', '.join(left)}")
    return index.take(chosen)


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _named(table: pd.DataFrame, **asked: Names | None) -> Filters:
    for column, value in asked.items():
        if value is None:
            continue
        names, known = _several(value), sorted(table[column].unique())
        if unknown := [name for name in names if name not in known]:
            raise CorpusError(
                f"no case of this corpus has the {column} {', '.join(map(repr, unknown))}; "
                f"there is: {', '.join(known) or 'none'}"
            )
        yield f"{column} {' or '.join(names)}", table[column].isin(names).to_numpy()


def _labelled(corpus: Corpus, index: CaseIndex, available: Sequence[str], present: Sequence[str]) -> Filters:
    for name in available:
        yield f"{name} available", index.annotated(corpus.taxonomy.bit(name))
    for name in present:
        yield f"{name} present", index.holding(corpus.taxonomy.bit(name))


def _conditional(corpus: Corpus, index: CaseIndex, condition: str | None) -> Filters:
    if condition is None:
        return
    try:
        _check_condition(corpus, condition)
        found = corpus.sql(CONDITION + condition)["case_id"]
    except CorpusError as error:
        raise CorpusError(f"where {condition!r}: {error}") from None
    yield f"where {condition!r}", np.isin(index.case_ids, found.to_numpy(dtype=str))


def _check_condition(corpus: Corpus, condition: str) -> None:
    """Refuse what is more than a condition: `true limit 3`, `true union ...`, a second statement.

    DuckDB's own parser says what the text is; apart from the condition, the query must be the one expected.
    """
    trees = []
    for text in (condition, "true"):
        tree = json.loads(corpus.sql("select json_serialize_sql($1) as tree", [CONDITION + text])["tree"].iloc[0])
        if tree["error"]:
            raise CorpusError(f"this is no condition: {tree['error_message']}")
        tree["statements"][0]["node"].pop("where_clause", None)
        trees.append(tree)
    if trees[0] != trees[1]:
        raise CorpusError("this is more than one condition over the columns of cases")


def _table(corpus: Corpus) -> pd.DataFrame:
    """What is one number or name a case, by case id. Only the columns that are needed are read."""
    words = -(-len(corpus.taxonomy) // WORD)
    columns = [
        "case_id, cast(dataset as varchar) as dataset, cast(split as varchar) as split, licence",
        *(f"shape[{k}] as shape{k}" for k in (1, 2, 3)),
        *(f"coalesce(body_bbox[{k}], 0) as body{k}" for k in (1, 2, 3)),
        *(f"coalesce(body_bbox[{k}], shape[{k - 3}]) as body{k}" for k in (4, 5, 6)),
        *(f"coalesce(available_bits[{w}], 0) as word{w}" for w in range(1, words + 1)),
    ]
    table = corpus.sql(f"select {', '.join(columns)} from cases order by case_id")
    if table.isna().to_numpy().any():
        raise _damaged(corpus)
    return table


PRESENT = """
    with numbered as (select row_number() over (order by case_id) - 1 as case_row, present from cases),
         listed as (select case_row, unnest(present) as name from numbered),
         classes as (select unnest($1::varchar[]) as name, unnest(range(len($1::varchar[]))) as bit)
    select cast(case_row as integer) as case_row, cast(bit as smallint) as bit
    from listed join classes using (name)
    order by case_row, bit
"""
"""One row per present class of a case."""


def _index(corpus: Corpus, table: pd.DataFrame) -> CaseIndex:
    datasets, dataset = np.unique(table["dataset"].to_numpy(dtype=str), return_inverse=True)
    present = corpus.sql(PRESENT, [list(corpus.taxonomy.names)])
    counts = np.bincount(present["case_row"].to_numpy(), minlength=len(table))
    index = CaseIndex(
        case_ids=table["case_id"].to_numpy(dtype=str),
        datasets=tuple(datasets.tolist()),
        dataset=dataset.astype(np.int32),
        shape=_columns(table, "shape", np.int32),
        body=_columns(table, "body", np.int32),
        available=_columns(table, "word", np.uint32),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        bits=present["bit"].to_numpy(dtype=np.int16),
    )
    if not _consistent(index):
        raise _damaged(corpus)
    return index


def _consistent(index: CaseIndex) -> bool:
    """Whether bodies lie in their volumes, and what is present was annotated."""
    low, high, bits = index.body[:, :3], index.body[:, 3:], index.bits.astype(np.uint32)
    inside = (low >= 0).all() and (low < high).all() and (high <= index.shape).all()
    return bool(inside and (index.available[index.owner, bits // WORD] >> bits % WORD & 1).all())


def _columns(table: pd.DataFrame, prefix: str, kind: type[Any]) -> NDArray[Any]:
    return table.filter(regex=rf"^{prefix}\d+$").to_numpy(dtype=kind)


def _damaged(corpus: Corpus) -> CorpusError:
    return CorpusError(
        f"{corpus.location}: the catalog is damaged; make it again with: atlas verify CORPUS --rebuild-catalog"
    )
