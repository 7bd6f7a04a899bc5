"""Parameters as the analysis needs them."""

from types import SimpleNamespace

from tests.compression.transition.synthetic import BUDGETS


def params(**changes):
    facts = {
        "metric": "f1", "drop_threshold": 0.10, "margin": 0.05, "alpha": 0.05, "confidence": 0.95, "resamples": 400,
        "seed": 1337, "budgets": list(BUDGETS), "n_bins": 5, "query_mode": "agnostic", "policy": "snapkv",
        "max_added_budgets": 4, "price_per_million_prompt_tokens": None, "price_per_million_completion_tokens": None,
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})
