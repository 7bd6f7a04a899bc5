import itertools

import pandas as pd
import pytest

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import CalibratedCounter
from kvlab.endpoints.facts import Fact
from kvlab.errors import InputError
from kvlab.evidence import full_hit_tokens
from kvlab.experiment import EngineFacts
from kvlab.experiments import get
from kvlab.experiments.token_sweep.findings import pairs
from kvlab.experiments.token_sweep.measure import calibrate
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.store.frames import REQUEST_COLUMNS
from tests.experiments.stored import run_data, summary

SWEEP = get("token_sweep")


def params(**changes):
    return TokenSweepParams(**{"token_targets": [300, 600], "repeats": 5, **changes})


def frame(params, cold_ms=100.0, hit_ms=10.0, change=None, second_ms=None):
    """A sweep in which every cold takes `cold_ms`, every hit `hit_ms`, but for what `change(row)` does.

    `second_ms`: what the second request of a control pair takes; as much as the first, where it is not given.
    """
    rows = []
    plan = SWEEP.plan(params, None).trials
    for k, trial in enumerate(plan):
        target = trial.planned["target_tokens"]
        # Times that are all equal have no interval; these differ by less than any figure shows, in no order.
        jitter_ms = 1e-4 * ((7 * k) % len(plan) - (len(plan) - 1) / 2)
        full = full_hit_tokens(target, 16)
        arms = [("cold", "cold", cold_ms, 0), ("hit", "hit", hit_ms + jitter_ms, full)]
        if trial.planned.get("control"):
            second = cold_ms if second_ms is None else second_ms
            arms = [("control_first", "cold", cold_ms, 0), ("control_second", "cold", second + jitter_ms, 0)]
        for arm, state, ttft, cached in arms:
            row = dict.fromkeys(REQUEST_COLUMNS)
            row |= {"request_id": f"{trial.trial_id}/{arm}", "trial_id": trial.trial_id, "arm": arm, "point": trial.point,
                    "repeat": trial.repeat, "prompt_tokens": target, "target_tokens": target, "cached_tokens": cached,
                    "predicted_cached_tokens": full, "cache_state": state, "ttft_ms": ttft,
                    "latency_ms": ttft + 50, "status": "ok", "used": True, "cache_reason": "said so", "shared_tokens": 0}  # fmt: skip
            rows.append(change(row) if change else row)
    integers = ("prompt_tokens", "target_tokens", "cached_tokens", "predicted_cached_tokens", "repeat")
    found = pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)).astype(dict.fromkeys(integers, "Int64"))
    times = ("ttft_ms", "latency_ms", "server_queue_ms", "server_prefill_ms")
    return found.astype(dict.fromkeys(times, "Float64"))


def pairs_of(chosen):
    return [trial for trial in SWEEP.plan(chosen, None).trials if not trial.planned.get("control")]


def judge(chosen=None, identity=None, **kwargs):
    chosen = chosen or params()
    found = run_data(frame(chosen, **kwargs), SWEEP.plan(chosen, None), identity=identity)
    return summary(SWEEP, found, chosen)


def test_the_plan_is_the_same_every_time_and_each_repeat_has_every_length():
    chosen = params(order="random", token_targets=list(range(100, 1100, 100)), repeats=3)
    assert SWEEP.plan(chosen, None) == SWEEP.plan(chosen, None)
    plan = pairs_of(chosen)
    assert [t.planned["target_tokens"] for t in plan] != sorted(t.planned["target_tokens"] for t in plan)
    for repeat in (1, 2, 3):
        assert sorted(t.planned["target_tokens"] for t in plan if t.repeat == repeat) == chosen.token_targets
    assert len({t.trial_id for t in plan}) == 30


def test_the_scenarios_order_is_ascending():
    plan = pairs_of(params(token_targets=[900, 300, 600], repeats=1, order="ascending"))
    assert [t.planned["target_tokens"] for t in plan] == [300, 600, 900]


def test_a_length_beyond_the_context_is_refused_with_the_longest_that_fits():
    with pytest.raises(InputError, match="longest target that fits is 936"):
        SWEEP.check(params(token_targets=[1000], max_tokens=64), None, EngineFacts(1000))
    SWEEP.check(params(token_targets=[936], max_tokens=64), None, EngineFacts(1000))
    SWEEP.check(params(token_targets=[10**6]), None, EngineFacts(None))


def test_pass_has_the_reduction_within_the_pair():
    found = judge()
    assert found.verdict == "PASS"
    assert found.results["median_ttft_reduction"] == 0.9
    assert (found.results["pairs_valid"], found.results["pairs_planned"]) == (10, 10)
    assert all(check.passed for check in found.checks)


def test_too_small_a_saving_fails():
    found = judge(hit_ms=95.0)
    assert found.verdict == "FAIL"
    assert "median TTFT reduction" in found.reasons[0]


def test_a_slower_hit_fails():
    assert judge(hit_ms=120.0).verdict == "FAIL"


def test_a_median_below_the_margin_alone_is_undecided():
    slow = {1: 70.0, 2: 70.0}
    found = judge(
        change=lambda row: {**row, "ttft_ms": slow.get(row["repeat"], 85.0) if row["arm"] == "hit" else 100.0}
    )
    assert found.results["median_ttft_reduction"] == 0.15
    assert found.verdict == "INVALID"


def test_too_few_pairs_are_underpowered_and_no_pass():
    found = judge(params(repeats=2))
    assert found.verdict == "INVALID"
    assert "underpowered" in found.reasons[0]


def test_an_interval_across_the_margin_is_underpowered():
    slow = {1: 99.0, 2: 99.0}
    found = judge(
        change=lambda row: {**row, "ttft_ms": slow.get(row["repeat"], 60.0) if row["arm"] == "hit" else 100.0}
    )
    assert found.results["median_ttft_reduction"] == 0.4
    assert found.verdict == "INVALID"


@pytest.mark.parametrize(
    ("arm", "state"), [("cold", "hit"), ("cold", "partial"), ("hit", "cold"), ("hit", "unverified")]
)
def test_unproven_states_give_no_verdict_however_good_the_times(arm, state):
    found = judge(change=lambda row: {**row, "cache_state": state} if row["arm"] == arm else row)
    assert found.verdict == "INVALID"
    assert found.results["median_ttft_reduction"] is None
    assert found.results["unverified_median_ttft_reduction"] == 0.9


def test_one_contaminated_pair_is_left_out_and_named():
    def contaminate(row):
        return (
            {**row, "cache_state": "partial", "ttft_ms": 1.0}
            if row["request_id"] == "000300-r02/cold"
            else row
        )

    found = judge(change=contaminate)
    assert (found.verdict, found.results["pairs_valid"]) == ("PASS", 9)
    assert any("000300-r02 is left out" in reason for reason in found.reasons)
    assert found.results["median_ttft_cold_ms"] == 100.0


def test_a_failed_pair_counts_against_the_plan():
    def fail(row):
        lost = row["repeat"] <= 2 and row["arm"] == "hit"
        return {**row, "status": "failed", "ttft_ms": None, "used": False} if lost else row

    found = judge(change=fail)
    assert found.verdict == "INVALID"
    assert found.results["pairs_complete"] == 6
    assert any("4 of 10 planned pairs" in reason for reason in found.reasons)


def test_earlier_attempts_are_not_results():
    chosen = params()
    found = frame(chosen)
    again = found[found["trial_id"] == "000300-r01"].assign(used=False, ttft_ms=5000.0, request_id="old")
    assert len(pairs(pd.concat([found, again]))) == 10


def test_nothing_measured_is_no_answer_and_no_crash():
    chosen = params()
    data = run_data(frame(chosen).iloc[:0], SWEEP.plan(chosen, None))
    found = SWEEP.findings(data, chosen)
    assert found.verdict == "INVALID"
    assert found.results["pairs_complete"] == 0
    assert [picture.draw() for picture in found.pictures]


def test_what_is_not_proven_is_a_limitation():
    identity = Identity(url="u", model="m", facts={"salt": Fact(holds=False, why="ignored")})
    assert any("salt (ignored)" in line for line in judge(identity=identity).limitations)


def test_the_split_is_there_only_where_the_server_tells():
    assert "ttft_split" not in [figure.name for figure in judge().figures]
    told = judge(change=lambda row: {**row, "server_queue_ms": 1.0, "server_prefill_ms": row["ttft_ms"] - 3})
    assert "ttft_split" in [figure.name for figure in told.figures]
    table = next(table for table in told.tables if table.name == "ttft_split")
    assert [row[2:] for row in table.rows[:2]] == [[100.0, 1.0, 97.0, 2.0], [10.0, 1.0, 7.0, 2.0]]


def test_the_controls_are_spread_among_the_pairs_and_over_the_lengths():
    plan = SWEEP.plan(params(), None).trials
    places = [place for place, trial in enumerate(plan) if trial.planned.get("control")]
    assert len(places) == 8
    assert min(b - a for a, b in itertools.pairwise([-1, *places, len(plan)])) >= 2
    assert {plan[place].planned["target_tokens"] for place in places} == {300, 600}


def test_a_saving_that_is_only_the_second_place_fails():
    """Every second request takes a third less, and the cache saves nothing at all."""
    found = judge(hit_ms=67.0, second_ms=67.0)
    assert found.verdict == "FAIL"
    assert found.results["median_ttft_reduction"] == 0.33
    assert abs(found.results["corrected_reduction"]) < 0.001


def test_what_the_second_place_is_worth_is_taken_off():
    found = judge(hit_ms=20.0, second_ms=80.0)
    assert found.verdict == "PASS"
    assert found.results["position_effect"] == 0.2
    assert found.results["corrected_reduction"] == 0.75


@pytest.mark.parametrize("broken", ["hit", "partial", "unverified"])
def test_a_control_pair_that_is_not_proven_cold_controls_nothing(broken):
    found = judge(
        change=lambda row: {**row, "cache_state": broken} if row["arm"] == "control_second" else row
    )
    assert found.verdict == "INVALID"
    assert found.results["control_pairs_proven"] == 0


def test_without_controls_the_report_says_what_is_in_the_saving():
    found = judge(params(position_controls=0))
    assert found.verdict == "PASS"
    (check,) = [check for check in found.checks if check.name == "saving_beyond_position"]
    assert (check.role, check.passed) == ("note", None)


def test_no_two_calibrating_prompts_share_their_start():
    """A server that leaves cached tokens out of its count would give the second one a wrong length."""
    asked = []

    def ask(prompt):
        asked.append(prompt["messages"][0]["content"][:16])
        return len(str(prompt)) // 4, 0

    calibrate(params(token_targets=[200, 400], manual_sections=60), CalibratedCounter(0.3, 8.0, ask))
    assert len(asked) >= 2
    assert len(set(asked)) == len(asked)


def alike(times):
    """Give the second requests of the control pairs, in their order, these times."""
    left = iter(times)
    return lambda row: {**row, "ttft_ms": next(left)} if row["arm"] == "control_second" else row


def test_controls_that_are_too_alike_for_an_interval_still_bound_the_second_place():
    found = judge(change=alike([90.0] * 4 + [110.0] * 4))
    (check,) = [check for check in found.checks if check.name == "saving_beyond_position"]
    assert found.results["corrected_reduction_low"] is None
    assert found.results["reduction_beside_largest_position_effect"] == pytest.approx(0.889, abs=1e-3)
    assert (found.verdict, check.passed) == ("PASS", True)
    assert "gained most" in check.seen


def test_a_saving_within_what_one_control_pair_gained_is_not_shown():
    found = judge(hit_ms=60.0, change=alike([60.0] * 4 + [110.0] * 4))
    assert found.verdict == "INVALID"
