"""Who labels what, how often, and how large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atlas.errors import CorpusError

if TYPE_CHECKING:
    import pandas as pd

    from atlas.corpus.corpus import Corpus

BY = {"dataset": "c.dataset", "split": "c.split", "licence": "c.licence", "group": "c.group_id"}
QUANTILES = (0.05, 0.5, 0.95)


def coverage(
    corpus: Corpus,
    *,
    by: Literal["dataset", "split", "licence", "group"] = "dataset",
    classes: list[str] | None = None,
) -> pd.DataFrame:
    """Count annotations.

    Parameters
    ----------
    corpus
        Whose catalog is asked.
    by
        What makes a row, together with the class.
    classes
        Only these; None: all that are available anywhere.

    Returns
    -------
    DataFrame
        `by`, class, cases, available, present (numbers of cases), volume_ml_p5, volume_ml_p50, volume_ml_p95
        (quantiles over the cases where the class is present), in the order of the taxonomy.

    Raises
    ------
    CorpusError
        If `by` is none of the four.
    SpecError
        If there is no such class.
    """
    if by not in BY:
        raise CorpusError(f"coverage by {by!r}? It can be by {', '.join(BY)}")
    for name in classes or ():
        corpus.taxonomy.bit(name)
    wanted = "list_contains($1, cast(a.class as varchar))" if classes else "true or $1 is null"
    quantiles = ", ".join(
        f"quantile_cont(a.volume_ml, {q}) filter (a.present) as volume_ml_p{round(100 * q)}" for q in QUANTILES
    )
    table = corpus.sql(
        f"""
        select {BY[by]} as "{by}", a.class, count(*) as cases,
               count(*) filter (a.available) as available, count(*) filter (a.present) as present, {quantiles}
        from annotations a join cases c using (case_id)
        where {wanted}
        group by all
        """,
        [classes],
    )
    if not classes:
        table = table[table["class"].map(table.groupby("class", observed=True)["available"].sum()).astype(int) > 0]
    rank = {name: bit for bit, name in enumerate(corpus.taxonomy.names)}
    table = table.assign(_rank=table["class"].map(rank).astype(int)).sort_values([by, "_rank"])
    return table.drop(columns="_rank").reset_index(drop=True)
