"""An endpoint: retries are rows, and a budget counts only where the answer proves it."""

import time

import pytest

from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import pipeline
from kvlab.experiments.kv_budget_transition.remote import Pace
from tests.command import folders, kvlab, read
from tests.fakes.process import FakeServer

FIELD = "kv.n_kept"
BUDGETS = {"budgets": [1.0, 0.5], "max_added_budgets": 0, "controls": ["noise_floor", "no_context"]}
ASKING = {
    "name": "openai_compat",
    "extra_body": {"0.5": {"kv_budget": 0.5}},
    "kept_tokens_field": FIELD,
}


def ask(job, tiny, engine, **kv):
    """Prepare and run; the tokenizer is the tiny model's, as an endpoint has none here."""
    engine = {**engine, "model": None}
    found = job(tiny, [f"tokenizer={tiny}"], engine=engine, kv={**BUDGETS, **kv})
    folder = pipeline.prepare(found, print)
    pipeline.run(job(tiny, [f"tokenizer={tiny}"], engine=engine, kv={**BUDGETS, **kv}), print)
    return folder


def test_a_budget_with_evidence_is_measured(job, tiny, point_at):
    with FakeServer(base_ms=1, itl_ms=0, kv_field=FIELD) as server:
        point_at(server)
        folder = ask(job, tiny, ASKING)
    kept = read(folder, "SELECT budget, n_context, n_planned, n_kept_json, evidence FROM kv_budgets")
    assert len(kept) == 12 * 4
    for budget, n_context, n_planned, n_kept, evidence in kept:
        assert n_kept == f"[{n_planned}]"
        assert n_planned == (n_context if budget == 1 else n_context // 2)
        assert FIELD in evidence
    runs = {row[0] for row in read(folder, "SELECT run_id FROM runs WHERE kv_budget IS NOT NULL")}
    assert len(runs) == 4


@pytest.mark.parametrize(
    ("server", "engine", "says"),
    [
        ({"kv_field": FIELD, "kv_ignores": True}, ASKING, "is ignored by the endpoint"),
        ({}, ASKING, "is not proven"),
        ({"kv_field": FIELD}, {**ASKING, "extra_body": {}}, "says for no 0.5 how to ask for it"),
        ({"kv_field": FIELD}, {**ASKING, "kept_tokens_field": None}, "name the field"),
    ],
)
def test_a_budget_without_evidence_is_refused_and_leaves_nothing(
    job, tiny, point_at, outputs, server, engine, says
):
    with FakeServer(base_ms=1, itl_ms=0, **server) as fake:
        point_at(fake)
        found = job(tiny, [f"tokenizer={tiny}"], engine={**engine, "model": None}, kv=BUDGETS)
        with pytest.raises(InputError, match=r"^kv\.budgets: ") as caught:
            pipeline.everything(found, print)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not folders(outputs)


def test_the_command_refuses_an_endpoint_that_ignores_the_budget(config, tiny, point_at, outputs):
    path = config(tiny, engine={**ASKING, "model": None}, kv={**BUDGETS})
    with FakeServer(base_ms=1, itl_ms=0, kv_field=FIELD, kv_ignores=True) as fake:
        point_at(fake)
        result = kvlab("run", "kv_budget_transition", "--params", str(path), "--set", f"tokenizer={tiny}")
    assert result.returncode == 2, result
    (line,) = result.stderr.strip().splitlines()
    assert "kv.budgets: 0.5 is ignored by the endpoint: kv.n_kept says that" in line
    assert not folders(outputs)


def test_budget_one_alone_needs_no_evidence(job, tiny, point_at):
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        folder = ask(job, tiny, {"name": "openai_compat"}, budgets=[1.0], controls=[])
    assert read(folder, "SELECT DISTINCT budget, evidence FROM kv_budgets") == [
        (1.0, "budget 1.0: nothing was asked of it")
    ]


def test_each_attempt_is_a_row_and_the_last_one_counts(job, tiny, point_at):
    """Opening probes four times; the fifth and sixth request are the first example's, refused twice."""
    with FakeServer(base_ms=1, itl_ms=0, faults={"5": "status_429", "6": "status_503"}) as server:
        point_at(server)
        folder = ask(job, tiny, {"name": "openai_compat"}, budgets=[1.0], controls=[])
    first = (
        "SELECT attempt, error_type FROM requests LEFT JOIN failures USING (request_id) WHERE example_id = "
    )
    first += "(SELECT example_id FROM requests WHERE attempt = 2) ORDER BY attempt"
    assert read(folder, first) == [(1, "RATE_LIMITED"), (2, "ENGINE_ERROR"), (3, None)]
    assert read(folder, "SELECT count(*) FROM trials WHERE status = 'done'") == [(12,)]


def test_requests_are_kept_apart():
    pace, begin = Pace(max_rpm=1200), time.monotonic()
    for _ in range(5):
        pace.wait()
    assert time.monotonic() - begin >= 4 * 0.05
    free = Pace(None)
    assert free.gap_s == 0
