"""Parameters as the analysis reads them."""

from kvlab.experiments.kv_budget_transition.estimate import Asked
from tests.compression.transition.synthetic import BUDGETS


def params(**changes):
    facts = {
        "metric": "f1", "drop_threshold": 0.10, "margin": 0.05, "alpha": 0.05, "confidence": 0.95, "resamples": 400,
        "seed": 1337, "budgets": BUDGETS, "n_bins": 5, "query_mode": "agnostic",
    }  # fmt: skip
    return Asked(**{**facts, **changes})
