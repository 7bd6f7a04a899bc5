"""From rows to a trial's figures, on rows whose truth is known."""

import pandas as pd
import pytest

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.facts import Fact
from kvlab.experiments.batch_benchmark import criteria, estimate, savings
from kvlab.experiments.batch_benchmark.data import Load
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.experiments.batch_benchmark.trials import Planned

MS = 1_000_000
PARAMS = BatchBenchmarkParams(sizes=[20], strategies=["shared_prefix"])
KNOWN = {"url": "http://there/v1", "model": "m", "facts": {"tokenizer": Fact(holds=True)}}


def row(item, sent_ms, took_ms, *, due_ms=None, error=None, used=True, session=1, **more):
    """One attempt; its first token came in the middle."""
    found = {
        "request_id": f"s{session}/{item}/{sent_ms}", "trial_id": "shared_prefix.000020.r01", "item": item,
        "session_id": session, "used": used, "status": "failed" if error else "ok", "error_type": error,
        "sent_ns": sent_ms * MS, "first_token_ns": None if error else (sent_ms + took_ms // 2) * MS,
        "done_ns": (sent_ms + took_ms) * MS, "ttft_ms": None if error else took_ms / 2, "latency_ms": float(took_ms),
        "send_lag_ms": float(sent_ms - (sent_ms if due_ms is None else due_ms)), "prompt_tokens": None if error else 100,
        "completion_tokens": None if error else 5, "cached_tokens": None if error else 64, "shared_tokens": 10,
    }  # fmt: skip
    return {**found, **more}


def frame(rows):
    whole = (
        "item",
        "first_token_ns",
        "done_ns",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "shared_tokens",
    )
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64") | {"ttft_ms": "Float64"})


def load(requests):
    """Return requests with nothing beside them."""
    columns = ["trial_id", "session_id", "ended", "before", "after", "generator", "state"]
    return Load(requests, pd.DataFrame(columns=columns), pd.DataFrame(), pd.DataFrame())


def cell(rows, params=PARAMS, identity=None):
    (found,) = estimate.cells(load(frame(rows)), params, identity)
    return found


def test_a_request_that_waits_for_a_connection_is_late_for_whoever_waits_for_it():
    """One connection, 100 ms a request, one due every 10 ms: the 20th was due at 190 and is answered at 2000."""
    found = cell([row(i, 100 * i, 100, due_ms=10 * i) for i in range(20)])
    assert found["ttft_ms"][0.5] == 50
    assert found["due_to_first_token_ms"][0.5] == pytest.approx(50 + 90 * 9.5)
    assert found["due_to_done_ms"][0.5] == pytest.approx(100 + 90 * 9.5)
    assert found["due_to_done_ms"][0.9] is None, "too few values"


def test_a_retried_request_counts_from_when_it_was_first_due():
    failed = [row(i, 10, 100, due_ms=0, error="ENGINE_ERROR", used=False) for i in range(20)]
    found = cell([*failed, *(row(i, 1000, 100, due_ms=900) for i in range(20))])
    assert found["due_to_done_ms"][0.5] == 1100
    assert found["failure_s"] == pytest.approx(20 * 0.99)


def test_what_lies_between_two_sessions_is_nobodys_time():
    """The machine was started anew, and its clock with it."""
    before = row(3, 9_000_000, 500, error="ENGINE_ERROR", used=False)
    others = [row(i, 100, 50, session=2) for i in range(20) if i != 3]
    found = cell([before, row(3, 70, 50, due_ms=60, session=2), *others])
    assert found["failure_s"] == pytest.approx(0.5)
    assert found["due_to_done_ms"][0.5] == 50


def test_an_empty_answer_is_served_and_no_error():
    found = cell([row(i, 100 * i, 100, error="EMPTY_OUTPUT" if i < 2 else None) for i in range(20)])
    assert (found["answered"], found["empty"], found["served"], found["failed"]) == (18, 2, 20, 0)
    assert (found["errors"], found["attempt_errors"]) == ({}, {})
    assert found["requests_per_s"] == pytest.approx(10)
    assert found["failure_s"] == 0
    assert criteria.no_errors([found]).passed
    few = criteria.few_empty([found], PARAMS)
    assert (few.passed, few.seen) == (False, "2 of 20 answers")
    assert criteria.few_empty([found], PARAMS.model_copy(update={"max_empty_share": 0.1})).passed
    assert criteria.few_empty([], PARAMS).passed is None


def predicted(rows, block, state):
    return savings.predicted(frame(rows), Planned("shared_prefix", 20, 1), state, block, 4, 50)


def test_without_a_block_size_the_prefix_counts_in_full_and_it_says_so():
    rows = [row(i, 100 * i, 50) for i in range(20)]
    assert predicted(rows, 32, {"prefix_tokens": 90})[:2] == pytest.approx((0.608, 0.608))
    rough = predicted(rows, None, {"prefix_tokens": 90})
    assert rough[:2] == pytest.approx((0.855, 0.855))
    assert "block size is unknown" in rough.roughly
    assert "an estimate of the prefix" in predicted(rows, 32, {"prefix_tokens_estimate": 90}).roughly
    assert predicted(rows, 32, {}) == (
        None,
        None,
        "the tokens that the prompts share cannot be counted on this server",
    )


def test_what_starts_together_may_miss_together():
    """No request knows at its sending that another has computed the prefix; one at a time, all but the first do."""
    together = predicted([row(i, 0, 50) for i in range(20)], 32, {"prefix_tokens": 90})
    one_by_one = predicted([row(i, 100 * i, 50) for i in range(20)], 32, {"prefix_tokens": 90})
    assert (together.least, together.most) == (0, pytest.approx(0.608))
    assert one_by_one.least == one_by_one.most == together.most


def saved(share, expected, roughly=None, **more):
    return {"strategy": "shared_prefix", "trial_id": "t", "savings": share, "predicted_savings": expected,
            "predicted_from": roughly, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "passed", "says"),
    [
        ([saved(0.8, 0.85)], True, "at worst 94.1% of it"),
        ([saved(0.7, 0.85)], False, "at worst 82.4% of it"),
        ([saved(0.8, 0.85, "without whole blocks")], True, "predicted without whole blocks"),
        ([saved(0.7, 0.85, "without whole blocks")], None, "predicted without whole blocks"),
        ([saved(0.85, None, "the block size is unknown")], None, "no prediction: the block size is unknown"),
        ([saved(0.85, 0.0)], None, "no prediction above 0"),
        ([saved(None, 0.85)], None, "not provable on this server"),
        ([saved(0.8, 0.85), saved(None, 0.85)], None, "unknown: t"),
        ([], None, "neither shared_prefix nor conversation"),
    ],
)
def test_a_saving_is_held_against_a_prediction_and_where_there_is_none_the_reason_is_true(
    found, passed, says
):
    check = criteria.as_predicted(found, PARAMS)
    assert check.passed is passed
    assert says in check.seen


@pytest.mark.parametrize(
    ("share", "template", "again", "passed"),
    [(0.0, 0.0, 0, True), (0.8, 0.0, 0, False), (0.16, 0.16, 0, True), (0.17, 0.16, 0, False),
     (0.05, 0.0, 1, True), (0.05, None, 0, True), (0.3, None, 0, False), (None, 0.0, 0, None)],
)  # fmt: skip
def test_the_control_may_find_nothing_but_the_template(share, template, again, passed):
    found = saved(share, 0.0, template_share=template, sent_again=again, served=20)
    assert criteria.control([{**found, "strategy": "isolated"}]).passed is passed
    assert criteria.control([]).passed is None


def test_the_templates_share_is_its_whole_blocks():
    rows = frame([row(i, 100 * i, 50, shared_tokens=40) for i in range(20)])
    assert savings.template_share(rows, 32, seen=True) == pytest.approx(0.32)
    assert savings.template_share(rows, None, seen=True) == pytest.approx(0.4)
    assert savings.template_share(rows, 32, seen=False) is None
    identity = Identity(**KNOWN, block_size=32)
    assert cell([row(i, 100 * i, 50) for i in range(20)], identity=identity)["template_share"] == 0


def possible(savings, most, **changes):
    known = {"trial_id": "t", "strategy": "shared_prefix", "prompt_tokens": 1000, "completion_tokens": 100,
             "sent_again": 0, "served": 20, "predicted_from": "", "savings": savings,
             "predicted_savings_at_most": most}  # fmt: skip
    return criteria.possible([{**known, **changes}])


@pytest.mark.parametrize(
    ("savings", "most", "changes", "passed"),
    [
        (0.943, 0.78, {"predicted_from": "from an estimate of the prefix"}, False),
        (0.80, 0.78, {"predicted_from": "from an estimate of the prefix"}, True),
        (0.80, 0.78, {}, False),
        (0.78, 0.78, {}, True),
        (0.80, 0.78, {"sent_again": 2}, True),
        (0.85, 0.78, {"strategy": "conversation"}, True),
        (0.80, None, {}, None),
    ],
)
def test_a_saving_beyond_what_the_prompts_share_is_a_contradiction(savings, most, changes, passed):
    check = possible(savings, most, **changes)
    assert (check.passed, check.role) == (passed, "proof")


def stood_still(rows, stalled_ms):
    found = load(frame(rows))
    stretch = {"trial_id": "shared_prefix.000020.r01", "session_id": 1, "ended": "done", "before": None, "after": None,
               "generator": {"stalled_ms": stalled_ms, "outages_ns": []}, "state": None}  # fmt: skip
    found.stretches.loc[0] = stretch
    (cell,) = estimate.cells(found, PARAMS, None)
    return cell


def test_no_time_is_made_of_an_end_that_this_client_saw_late():
    rows = [row(i, 100 * i, 100) for i in range(20)]
    rows[7] |= {"latency_ms": None, "ttft_ms": None, "first_token_ns": None, "done_ns": 5000 * MS}
    found = stood_still(rows, 40.0)
    assert found["due_to_done_ms"][0.5] == found["latency_ms"][0.5] == 100, "of the nineteen others"
    assert found["server_s"] is None, "nineteen are not the whole"
    assert found["requests_per_s"] == pytest.approx(20 / 5)
    assert found["completion_tokens_per_s"] is not None


def test_a_trial_in_which_this_client_stood_still_has_no_rate():
    rows = [row(i, 100 * i, 100) for i in range(20)]
    assert stood_still(rows, 99.0)["requests_per_s"] == pytest.approx(10)
    found = stood_still(rows, 100.0)
    assert found["total_s"] == 2.0
    assert (
        found["requests_per_s"] is found["completion_tokens_per_s"] is found["steady_requests_per_s"] is None
    )
    assert found["steady"].reason == "this client stood still for 0.1 of 2.0 s: the rate is its own"
    assert found["steady"].windows.empty
