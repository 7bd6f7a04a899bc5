import numpy as np
import pytest

from kvlab.experiments.context_limit_probe.estimate import fit_child, fit_line
from tests.experiments.context_limit_probe.test_ledger import probe

TOKENS = list(range(256, 2560, 64))


def test_a_known_slope_is_found_and_its_interval_holds_it():
    noise = np.random.default_rng(3).normal(0, 50_000, len(TOKENS))
    line = fit_line(TOKENS, [5e8 + 46_080 * n + e for n, e in zip(TOKENS, noise, strict=True)], 0.95)
    assert line.low < 46_080 < line.high
    assert line.slope == pytest.approx(46_080, rel=0.01)
    assert line.intercept == pytest.approx(5e8, rel=0.001)
    assert line.r_squared > 0.999
    assert line.residual_fraction < 0.01
    assert line.tokens_in(46_080_000) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("adds_up", [False, True])
def test_the_interval_holds_the_slope_at_least_as_often_as_it_says(adds_up):
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        noise = draw.normal(0, 1000, len(TOKENS))
        noise = np.cumsum(noise) if adds_up else noise
        line = fit_line(TOKENS, [100 * n + e for n, e in zip(TOKENS, noise, strict=True)], 0.9)
        held += line.low <= 100 <= line.high
    assert held / 200 >= 0.85


def test_what_does_not_grow_along_a_line_shows():
    stepped = [5e8 + 4e7 * (n // 1024) for n in TOKENS]
    assert fit_line(TOKENS, stepped, 0.95).residual_fraction > 0.1
    flat = fit_line(TOKENS, [5e8 + n % 3 for n in TOKENS], 0.95)
    assert flat.low < 0 < flat.high or flat.r_squared < 0.5


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_points_are_no_line(count):
    assert fit_line(TOKENS[:count], [1.0] * count, 0.95) is None


def test_two_children_are_two_intercepts_and_only_the_longer_counts():
    first = [probe(n, target="float32", session=1, rss_bytes=1_000_000 + 10 * n) for n in TOKENS[:8]]
    second = [probe(n, target="float32", session=2, rss_bytes=9_000_000 + 10 * n) for n in TOKENS]
    line = fit_child([*first, *second], "float32", 256, 0.95)
    assert line.slope == pytest.approx(10)
    assert line.points == len(TOKENS)
    assert fit_child(first, "bfloat16", 256, 0.95) is None
