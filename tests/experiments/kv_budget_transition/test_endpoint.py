"""An endpoint: retries are rows, and a budget counts only where the answer proves it."""

import json
import time
from dataclasses import replace

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.command import pipeline
from kvlab.errors import InputError, KvlabError
from kvlab.experiments.kv_budget_transition import remote, store
from kvlab.experiments.kv_budget_transition.state import Pace
from kvlab.runs.data import RunData
from kvlab.scoring import scorer_name
from tests.command.tool import folders, kvlab, read

FIELD = "kv.n_kept"
BUDGETS = {"budgets": [1.0, 0.5], "max_added_budgets": 0, "controls": ["noise_floor", "no_context"]}
ASKING = {
    "name": "openai_compat",
    "extra_body": {"0.5": {"kv_budget": 0.5}},
    "kept_tokens_field": FIELD,
}


@pytest.fixture
def probes(job, tiny, point_at):
    """How many requests an opening makes before anything is asked."""
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        found = job(tiny, [f"tokenizer={tiny}"], engine={"name": "openai_compat", "model": None}, kv=ONE)
        with pipeline.opened(replace(found, outputs=found.outputs / "probes")):
            return len(server.truth())


def ask(job, tiny, engine, more=(), **kv):
    """Prepare and run; the tokenizer is the tiny model's, as an endpoint has none here."""
    groups = {"engine": {**engine, "model": None}, "kv": {**BUDGETS, **kv}}
    folder = pipeline.prepare(job(tiny, [f"tokenizer={tiny}", *more], **groups), print)
    pipeline.run(job(tiny, [f"tokenizer={tiny}", *more], **groups), print)
    return folder


def test_a_budget_with_evidence_is_measured(job, tiny, point_at):
    with FakeServer(base_ms=1, itl_ms=0, kv_field=FIELD) as server:
        point_at(server)
        folder = ask(job, tiny, ASKING)
    kept = read(folder, "SELECT budget, n_context, n_planned, n_kept_json, evidence FROM kv_budgets")
    assert len(kept) == 12 * 3 + 6, "budget 1.0 once more on every second example"
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
        ({"kv_field": FIELD}, {**ASKING, "extra_body": {**ASKING["extra_body"], "1.0": {"kv_budget": 0.25}}},
         "a server whose cache is whole at 1.0"),
        ({"kv_field": FIELD}, {**ASKING, "extra_body": {}}, "says for no 0.5 how to ask for it"),
        ({"kv_field": FIELD}, {**ASKING, "kept_tokens_field": None}, "name the field"),
    ],
)  # fmt: skip
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


def test_each_attempt_is_a_row_and_the_last_one_counts(job, tiny, point_at, probes):
    """The first two requests after those of the opening are the first example's, refused twice."""
    faults = {str(probes + 1): "status_429", str(probes + 2): "status_503"}
    with FakeServer(base_ms=1, itl_ms=0, faults=faults) as server:
        point_at(server)
        folder = ask(job, tiny, {"name": "openai_compat"}, budgets=[1.0], controls=[])
    first = (
        "SELECT attempt, error_type FROM requests LEFT JOIN failures USING (request_id) WHERE example_id = "
    )
    first += "(SELECT example_id FROM requests WHERE attempt = 2) ORDER BY attempt"
    assert read(folder, first) == [(1, "RATE_LIMITED"), (2, "ENGINE_ERROR"), (3, None)]
    assert read(folder, "SELECT count(*) FROM trials WHERE status = 'done'") == [(12,)]
    with RunData.open(folder) as data:
        used = data.requests[data.requests["used"]]
        assert list(used["status"]) == ["ok"] * 12, "one row an example"
        assert list(used["attempt"]) == [3] + [1] * 11


def test_a_task_without_a_chat_template_is_asked_for_a_completion(job, tiny, point_at, probes):
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        folder = ask(
            job,
            tiny,
            {"name": "openai_compat"},
            more=["dataset.chat=false"],
            budgets=[1.0],
            controls=["no_context"],
        )
        paths = {record["path"] for record in server.truth()[probes:]}
    assert paths == {"/v1/completions"}
    (example,) = read(folder, "SELECT context, question FROM examples LIMIT 1")
    bodies = [
        json.loads(body)["prompt"] for (body,) in read(folder, "SELECT DISTINCT body_json FROM prompts")
    ]
    assert sum(example[0] in body for body in bodies) == 1
    assert sum(example[0] not in body and example[1] in body for body in bodies) >= 1, "without the context"


def test_a_prompt_that_the_server_cut_is_no_answer_and_other_scorers_do_not_count(job, tiny, point_at):
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        folder = ask(job, tiny, {"name": "openai_compat"}, **ONE)
    with RunData.open(folder) as data:
        data.database.replace_derived({"scores": store.score(data)})
        labels = "SELECT count(*) FROM scores WHERE outcome = 'INPUT_TRUNCATED'"
        assert data.sql.execute(labels).fetchone()[0] == 0
        assert data.sql.execute("SELECT count(target_tokens) FROM requests").fetchone()[0] == 12
        one = "(SELECT min(request_id) FROM responses)"
        data.sql.execute(f"UPDATE responses SET prompt_tokens = prompt_tokens - 9 WHERE request_id = {one}")
        for scorer in ("longbench-en/10", "longbench-zh/1 characters", "longbench-en/1 jieba-1"):
            data.sql.execute("UPDATE scores SET scorer = ?", (scorer,))
            assert len(store.score(data)) == 12
        before = data.sql.total_changes
        assert [row["outcome"] for row in store.scores(data).values()].count("INPUT_TRUNCATED") == 1
        assert data.sql.total_changes == before, "scoring writes nothing"
        data.database.replace_derived({"scores": store.score(data)})
        assert data.sql.execute(labels).fetchone()[0] == 1
        data.sql.execute("""UPDATE examples SET meta_json = json_set(meta_json, '$.language', 'zh')""")
        data.sql.execute("UPDATE scores SET scorer = ?", (scorer_name("zh"),))
        assert store.score(data) == []
        data.sql.execute("UPDATE scores SET scorer = 'longbench-zh/1 jieba-0.1'")
        assert len(store.score(data)) == 12


ONE = {"budgets": [1.0], "controls": []}
#: No waiting for a server that is away, and no second attempt.
ONCE = ["max_attempts=1", "outage_s=0"]


def again(job, tiny, **kv):
    """All stages, on the run that is there."""
    engine = {"name": "openai_compat", "model": None}
    found = job(tiny, [f"tokenizer={tiny}", *ONCE], engine=engine, kv={**BUDGETS, **kv})
    folder = pipeline.everything(found, lambda line: None).parent
    return json.loads((folder / "summary.json").read_text())


def test_what_the_serving_failed_is_asked_again_by_the_next_run(job, tiny, point_at, probes):
    refused = {str(probes + 4 + i): "status_429" for i in (1, 2, 3, 4)}
    with FakeServer(base_ms=1, itl_ms=0, faults=refused) as server:
        point_at(server)
        folder = ask(job, tiny, {"name": "openai_compat"}, more=ONCE, **ONE)
        states = dict(read(folder, "SELECT status, count(*) FROM trials GROUP BY status"))
        assert states == {"failed": 4, "done": 8}
        server.control(faults={str(probes + 1): "status_500"})
        summary = again(job, tiny, **ONE)
        assert (summary["verdict"], summary["headline"][:12]) == ("INVALID", "partial run:")
        assert "12 of 12, 11 of 12 trials: a partial run" in summary["reasons"][0]
        assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
        server.clear_truth()
        summary = again(job, tiny, **ONE)
        assert summary["verdict"] == "PASS"
        assert len(server.truth()) == probes + 1, "only what has no answer"
    attempts = (
        "SELECT attempt, count(*) FROM requests WHERE trial_id IS NOT NULL GROUP BY attempt ORDER BY attempt"
    )
    assert read(folder, attempts) == [(1, 12), (2, 4), (3, 1)]


def test_a_refused_key_stops_the_run_and_a_resume_goes_on(job, tiny, point_at, probes):
    with FakeServer(base_ms=1, itl_ms=0, faults={str(probes + 3): "status_401"}) as server:
        point_at(server)
        with pytest.raises(KvlabError, match=r"^the endpoint refuses every request \(HTTP 401\): .*resume$"):
            ask(job, tiny, {"name": "openai_compat"}, more=ONCE, **ONE)
        server.control(faults={})
        assert again(job, tiny, **ONE)["verdict"] == "PASS"


def test_a_stop_within_an_example_loses_no_answer(job, tiny, point_at, probes, monkeypatch):
    once, count = remote._once, iter(range(100))

    def stopped(*arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        return once(*arguments)

    monkeypatch.setattr(remote, "_once", stopped)
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        kv = {"budgets": [1.0], "controls": ["noise_floor", "no_context"]}
        with pytest.raises(KeyboardInterrupt):
            ask(job, tiny, {"name": "openai_compat"}, more=ONCE, **kv)
        server.clear_truth()
        assert again(job, tiny, **kv)["verdict"] == "PASS"
        (folder,) = folders(job(tiny).outputs)
        ((answers,),) = read(folder, "SELECT count(*) FROM requests WHERE trial_id IS NOT NULL")
        assert len(server.truth()) == probes + answers - 2, "two were there"
    attempts = "SELECT attempt, count(*) FROM requests WHERE trial_id IS NOT NULL GROUP BY attempt"
    assert read(folder, attempts) == [(1, answers - 1), (2, 1)], (
        "the claimed number of the stopped attempt is spent"
    )


def test_requests_are_kept_apart():
    pace, begin = Pace(max_rpm=1200), time.monotonic()
    for _ in range(5):
        pace.wait()
    assert time.monotonic() - begin >= 4 * 0.05
    free = Pace(None)
    assert free.gap_s == 0
