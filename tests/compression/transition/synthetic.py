"""Answers of a made-up model with a known transition."""

import numpy as np
import pandas as pd

BUDGETS = (1.0, 0.5, 0.2)
POLICY = "snapkv-w64-k5-avg"


def row(example, budget, score, phase="planned", **changes):
    """Return one answer: example ``e07`` is in context ``c07`` and bin 0, unless said otherwise."""
    failed = score is None
    kept = round(budget * 400)
    return {
        "example_id": example, "context_id": f"c{example[1:]}", "bin_idx": 0, "token_len": 400,
        "query_mode": "agnostic", "policy": "full" if budget == 1.0 else POLICY, "budget": budget, "phase": phase,
        **dict.fromkeys(("f1", "em", "contains"), np.nan if failed else float(score)),
        "failed": failed, "outcome": "ENGINE_ERROR" if failed else None, "n_kept_min": kept, "n_kept_max": kept,
        "n_context": 400, "n_planned": kept, "cache_bytes": kept * 1000.0, "prompt_tokens": 420.0,
        "completion_tokens": 8.0, "latency_ms": np.nan, "ttft_ms": np.nan, "peak_memory_bytes": np.nan,
        "text": None if failed else f"answer {score:g} of {example}", "answers": '["gold"]', "task": "needle", **changes,
    }  # fmt: skip


def answers(curves, **changes):
    """Return the frame of ``{example: {budget: score}}``; a score of ``None`` is a failure."""
    return pd.DataFrame([row(e, b, s, **changes) for e, curve in curves.items() for b, s in curve.items()])


def cliff(
    seed=3, *, n_bins=5, per_bin=12, budgets=BUDGETS, added=(), at=0.8, to=0.1, top=0.95, controls=True
):
    """Return a whole run: right answers fall from ``top`` to ``to`` at about ``at``, longer bins sooner."""
    draw = np.random.default_rng(seed)
    rows = []
    for b in range(n_bins):
        for i in range(per_bin):
            name = f"e{b}{i:02d}"
            luck, place = draw.random(2)
            facts = {"bin_idx": b, "token_len": 300 + 200 * b + i, "n_context": 300 + 200 * b + i}
            breaks = at + 0.04 * (b - n_bins // 2) + 0.06 * (place - 0.5)

            def score(budget, luck=luck, breaks=breaks):
                return float(luck < (top if budget >= breaks else to))

            def add(budget, phase="planned", name=name, facts=facts, score=score, **changes):
                kept = round(budget * facts["n_context"])
                sizes = {"n_kept_min": kept, "n_kept_max": kept, "n_planned": kept, "cache_bytes": kept * 1e3}
                value = changes.pop("value", score(budget))
                rows.append(row(name, budget, value, phase, **{**facts, **sizes, **changes}))

            for budget in budgets:
                slow = {"outcome": "TRUNCATED"} if budget < 0.3 and luck > 0.8 else {}
                add(budget, **slow)
            for budget in added:
                add(budget, "added")
            if controls:
                add(1.0, "noise_floor")
                add(1.0, "control_no_context", value=float(luck < 0.05))
                add(
                    1.0, "timed", latency_ms=500 + 100 * b + i, ttft_ms=400.0 + 100 * b, peak_memory_bytes=2e9
                )
                for budget in budgets[1:]:
                    add(budget, "control_random", value=0.0, policy="random-s0")
                    add(
                        budget,
                        "timed",
                        latency_ms=450 + 80 * b + i,
                        ttft_ms=400.0 + 100 * b,
                        peak_memory_bytes=1.9e9,
                    )
    return pd.DataFrame(rows)
