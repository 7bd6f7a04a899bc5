"""The answers of a run as a matrix: one row per example, one column per budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from kvlab.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: What a failed answer counts as: nothing right, not there, or what makes the drop largest or smallest.
Treatment = Literal["zero", "missing", "worst", "best"]
TREATMENTS: tuple[Treatment, ...] = ("zero", "missing", "worst", "best")

#: Phases whose rows make the curve; the others are controls and timings.
CURVE = ("planned", "added")
FULL = 1.0

#: Labels of answers that answer nothing. One that was cut off, or is of another form, is still an answer: right or wrong.
BROKEN = ("EMPTY_OUTPUT", "REFUSAL", "DEGENERATE_REPETITION", "INPUT_TRUNCATED")


@dataclass(frozen=True)
class Scores:
    """Scores of the same examples at several budgets.

    Attributes:
        budgets: Kept fractions, descending, the first is 1.0; shape [budgets].
        planned: Which of them were planned (the others were added where the drop is); [budgets].
        values: Scores in [0, 1]; NaN where the answer failed or is absent; [examples, budgets].
        failed: Asked, and no answer came; [examples, budgets].
        labelled: No answer, or an answer with a label of the failure taxonomy; [examples, budgets].
        broken: No answer, or one that answers nothing (`BROKEN`); [examples, budgets].
        clusters: Index of each example's context; [examples].
        bins: Length bin of each example; [examples].
        examples: Their ids.
        tokens: Which budgets are numbers of entries: their share of the mean context, by which they are
            placed among the fractions, and the number.
    """

    budgets: Floats
    planned: Bools
    values: Floats
    failed: Bools
    labelled: Bools
    broken: Bools
    clusters: Ints
    bins: Ints
    examples: tuple[str, ...]
    tokens: Mapping[float, int] = field(default_factory=dict)

    def name(self, budget: float) -> str:
        """Return what a budget is called: ``0.5`` or ``512 tokens``."""
        return f"{self.tokens[budget]} tokens" if budget in self.tokens else f"{budget:g}"

    def as_asked(self, budget: float | None) -> float | None:
        """Return a budget as the parameters write it: a fraction, or a number of entries above 1."""
        return budget if budget is None else float(self.tokens.get(budget, budget))

    def filled(self, treatment: Treatment = "zero") -> Floats:
        """Return the scores with failures as 0 (``zero``) or NaN (``missing``); [examples, budgets].

        Under ``worst`` a failure at budget 1.0 counts as 1 and any other as 0, under ``best`` the
        other way round: together they bound every drop, whatever the lost answers would have been.
        """
        filled = self.values.copy()
        if treatment == "missing":
            return filled
        filled[self.failed] = float(treatment == "best")
        filled[self.failed[:, 0], 0] = float(treatment == "worst")
        return filled

    def drops(self, treatment: Treatment = "zero") -> Floats:
        """Return score(1.0) - score(budget) of each example, NaN where one of the two is missing."""
        filled = self.filled(treatment)
        return filled[:, :1] - filled

    def only(self, rows: Bools) -> "Scores":
        """Return some of the examples."""
        return replace(
            self,
            values=self.values[rows],
            failed=self.failed[rows],
            labelled=self.labelled[rows],
            broken=self.broken[rows],
            clusters=self.clusters[rows],
            bins=self.bins[rows],
            examples=tuple(name for name, keep in zip(self.examples, rows, strict=True) if keep),
        )

    def columns(self, keep: Bools) -> "Scores":
        """Return some of the budgets."""
        return replace(
            self,
            budgets=self.budgets[keep],
            planned=self.planned[keep],
            values=self.values[:, keep],
            failed=self.failed[:, keep],
            labelled=self.labelled[:, keep],
            broken=self.broken[:, keep],
        )

    @property
    def plan(self) -> "Scores":
        """The planned budgets alone."""
        return self.columns(self.planned)


def collect(frame: pd.DataFrame, metric: str, budgets: Sequence[float] | None = None) -> Scores:
    """Return the planned and added answers of a frame as a matrix.

    Args:
        frame: One row per answer: ``example_id``, ``context_id``, ``bin_idx``, ``budget``, ``phase``,
            ``failed``, ``outcome`` and the metric's column; ``asked``, the budget as it was asked for, where
            that may be a number of entries. Rows of other phases are left out.
        metric: The column that is the score, in [0, 1].
        budgets: The planned ones, which get a column even where nothing was answered.

    Raises:
        InputError: An answer is there twice, or there is none of that metric.
    """
    if metric not in frame.columns:
        raise InputError("metric", metric, "is not a column of the answers; choose f1, em or contains")
    curve = frame[frame["phase"].isin(CURVE)]
    if curve.duplicated(["example_id", "budget"]).any():
        twice = curve[curve.duplicated(["example_id", "budget"])].iloc[0]
        raise InputError("example_id", twice["example_id"], f"has two answers at budget {twice['budget']:g}")
    planned = {FULL, *(budgets or ()), *curve.loc[curve["phase"] == "planned", "budget"].astype(float)}
    every = sorted(planned | set(curve["budget"].astype(float)), reverse=True)
    facts = (
        curve.drop_duplicates("example_id").sort_values("example_id", kind="stable").set_index("example_id")
    )

    def matrix(column: "pd.Series[bool] | pd.Series[float]") -> pd.DataFrame:
        table = curve.assign(cell=column).pivot(index="example_id", columns="budget", values="cell")
        return table.reindex(index=facts.index, columns=every)

    failed = curve["failed"].astype(bool)
    score = curve[metric].astype(float).mask(failed)
    labelled = failed | curve["outcome"].notna()
    broken = failed | curve["outcome"].isin(BROKEN)
    codes, _ = pd.factorize(facts["context_id"].astype(str), sort=True)
    return Scores(
        budgets=np.array(every, dtype=float),
        planned=np.array([budget in planned for budget in every], dtype=bool),
        values=matrix(score).to_numpy(dtype=float),
        failed=matrix(failed).eq(True).to_numpy(dtype=bool),
        labelled=matrix(labelled).eq(True).to_numpy(dtype=bool),
        broken=matrix(broken).eq(True).to_numpy(dtype=bool),
        clusters=np.asarray(codes, dtype=np.int64),
        bins=facts["bin_idx"].to_numpy(dtype=np.int64),
        examples=tuple(str(name) for name in facts.index),
        tokens=_tokens(curve),
    )


def _tokens(curve: pd.DataFrame) -> dict[float, int]:
    if "asked" not in curve.columns:
        return {}
    asked = curve.loc[curve["asked"] > 1, ["budget", "asked"]].drop_duplicates()
    return {float(share): int(number) for share, number in asked.itertuples(index=False)}
