import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.experiments.context_limit_probe import exports
from kvlab.experiments.context_limit_probe.estimate import Measured, recommend, value
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.replay import interval_of

PARAMS = ContextLimitProbeParams()


def test_the_rules_on_a_round_example():
    found = recommend(Measured(40_000, "refused", 100, 100.0), PARAMS)
    assert [(item.name, item.value) for item in found] == [
        ("MAX_CONTEXT_TOKENS", 31_999),
        ("CONTEXT_TRIM_THRESHOLD", 27_199),
        ("TRIM_INTERVAL", 136),
        ("KEEP_MESSAGES", 268),
    ]
    assert "40,000" in found[0].rule
    assert "85%" in found[1].rule


@given(
    maximum=st.integers(10, 10_000_000),
    system=st.integers(0, 5000),
    growth=st.floats(1, 5000),
)
def test_they_are_always_safe_or_absent(maximum, system, growth):
    found = recommend(Measured(maximum, "refused", system, growth), PARAMS)
    if not found:
        return
    largest, threshold = value(found, "MAX_CONTEXT_TOKENS"), value(found, "CONTEXT_TRIM_THRESHOLD")
    interval, kept = value(found, "TRIM_INTERVAL"), value(found, "KEEP_MESSAGES") // 2
    assert largest < 0.8 * maximum
    assert threshold < largest
    assert interval >= 1
    assert kept >= 1
    assert system + (kept + interval) * growth <= threshold + 1e-6
    for factor in (0.01, 0.5, 1.0):
        assert 1 <= interval_of(found, factor) <= interval


def test_a_context_too_short_to_trim_in_has_no_constants():
    assert recommend(Measured(300, "refused", 100, 100.0), PARAMS) == []


@pytest.mark.parametrize("form", ["env", "python"])
def test_they_can_be_pasted(form, monkeypatch):
    found = recommend(Measured(40_000, "refused", 100, 100.0), PARAMS)
    if form == "python":
        pasted: dict = {}
        exec(exports.as_python(found), pasted)
    else:
        lines = [line for line in exports.as_env(found).splitlines() if not line.startswith("#")]
        pasted = {name: int(text) for name, text in (line.split("=") for line in lines)}
    assert {item.name: pasted[item.name] for item in found} == {item.name: item.value for item in found}
