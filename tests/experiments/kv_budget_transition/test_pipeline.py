"""What a stage needs, what it leaves alone, and what it refuses to mix."""

import json

import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api
from kvlab.command import pipeline, runner
from kvlab.errors import InputError
from kvlab.experiments import kv_budget_transition
from kvlab.experiments.kv_budget_transition import estimate, local
from kvlab.report import build
from kvlab.runs import lock, stages, status
from kvlab.runs.data import RunData
from kvlab.store.database import Database
from tests.command.tool import folders, read

#: Three answers at two budgets, and nothing else: a second, with the tiny model.
FEW = [
    "dataset.lengths_tokens=[200]", "dataset.n_per_bin=3", "kv.max_added_budgets=0", "kv.controls=[]",
]  # fmt: skip


def quiet(line):
    del line


@pytest.fixture
def few(job, tiny):
    """Resolve the small run, with more overrides."""
    return lambda *more, **options: job(tiny, [*FEW, *more], **options)


@pytest.fixture
def done(few):
    """The folder of the small run, finished."""
    return pipeline.everything(few(), quiet).parent


@pytest.fixture
def no_engine(monkeypatch):
    """Whoever opens one fails."""

    def opened(*arguments):
        raise AssertionError("an engine was opened")

    return lambda: monkeypatch.setattr(kv_budget_transition.EngineFactory, "open", opened)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_other_analysis_parameters_read_the_same_answers(few, done, no_engine):
    no_engine()
    other = few("analysis.margin=0.3")
    assert other.folder == done
    with pytest.raises(InputError, match=r"older than the answers or the parameters; run `kvlab kv analyze`"):
        pipeline.report(other, quiet)
    pipeline.analyze(other, quiet)
    assert summary(done)["results"]["call_margin"] == 0.3
    pipeline.report(other, quiet)
    text = (done / "report.md").read_text()
    assert "margin 0.3, alpha" in text
    build.rebuild(done, kv_budget_transition.EXPERIMENT)
    assert (done / "report.md").read_text() == text, "what was analysed last is what the database says"
    assert len(read(done, "SELECT DISTINCT session_id FROM requests")) == 1
    said = []
    pipeline.analyze(few(), said.append)
    assert not said[-1].startswith("analyze: up to date")
    assert summary(done)["results"]["call_margin"] == 0.05


def test_a_forced_analysis_uses_the_parameters_that_it_is_recorded_for(few, done):
    pipeline.analyze(few("analysis.margin=0.3", force=True), quiet)
    assert summary(done)["results"]["call_margin"] == 0.3
    assert read(done, "SELECT forced FROM stages WHERE name = 'analyze'") == [(1,)]


@pytest.mark.parametrize("override", ["kv.budgets=[1.0,0.3]", "seed=7", "decoding.max_new_tokens=3"])
def test_force_does_not_ask_other_questions_in_a_run(few, done, outputs, override):
    config = outputs.parent / "small.yaml"
    with pytest.raises(InputError, match=rf"has another {override.split('=')[0]} than the config, so"):
        pipeline.staged_run(config, [*FEW, override], run=done, outputs=outputs, force=True)


def test_force_may_change_how_answers_are_got(few, done, outputs):
    config, override = outputs.parent / "small.yaml", [*FEW, "max_attempts=7"]
    with pytest.raises(InputError, match="has another max_attempts than the config; leave --run out, or"):
        pipeline.staged_run(config, override, run=done, outputs=outputs)
    assert pipeline.staged_run(config, override, run=done, outputs=outputs, force=True).folder == done


def test_score_again_only_when_forced(few, done):
    with Database(done / "run.sqlite") as database:
        database.sql.execute("UPDATE scores SET f1 = 0.123")
    said = []
    pipeline.score(few(), said.append)
    assert read(done, "SELECT count(*) FROM scores WHERE f1 = 0.123") == [(6,)]
    pipeline.score(few(force=True), said.append)
    assert read(done, "SELECT count(*) FROM scores WHERE f1 = 0.123") == [(0,)]
    assert said == ["score: 0 scored, 6 were scored before", "score: 6 scored, 0 were scored before"]


def test_a_finished_run_and_a_preparation_open_no_engine(few, done, no_engine):
    no_engine()
    said = []
    assert pipeline.everything(few(), said.append).parent == done
    assert "run: 3 of 3 trials are done" in said
    pipeline.run(few(), said.append)
    folder = pipeline.prepare(few("seed=7"), quiet)
    assert read(folder, "SELECT count(*) FROM manifest_entries") == [(3,)]
    assert status.reconcile(folder)["reason"] == "prepared; nothing is asked yet"
    assert "engine" not in json.loads(read(folder, "SELECT contract_json FROM experiments")[0][0])
    with pytest.raises(AssertionError, match="an engine was opened"):
        pipeline.run(few("seed=7"), quiet)


def test_an_endpoint_is_asked_only_while_something_is_pending(job, tiny, point_at):
    def endpoint():
        engine = {"name": "openai_compat", "model": None}
        return job(tiny, [*FEW, "kv.budgets=[1.0]", f"tokenizer={tiny}"], engine=engine)

    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
    folder = pipeline.prepare(endpoint(), quiet)  # the server is gone
    with FakeServer(base_ms=1, itl_ms=0) as server:
        point_at(server)
        pipeline.run(endpoint(), quiet)
    assert pipeline.everything(endpoint(), quiet).parent == folder


def test_what_was_prepared_is_held_against_what_runs(few):
    folder = pipeline.prepare(few(), quiet)
    with Database(folder / "run.sqlite") as database:
        database.sql.execute(
            """UPDATE experiments SET contract_json = json_set(contract_json, '$.machine.cores', 99)"""
        )
    with pytest.raises(InputError, match=r"machine\.cores: differs from the run to resume: was 99"):
        pipeline.run(few(), quiet)
    pipeline.run(few(force=True), quiet)
    (forced,) = read(folder, "SELECT forced_json FROM sessions")
    assert json.loads(forced[0]) == ["machine.cores"]
    contract = json.loads((folder / "manifest.json").read_text())["contract"]
    assert (contract["engine"]["name"], contract["policy"]) == ("transformers KV", "snapkv-w8-k3-avg")
    assert "analysis" not in contract["params"]


def test_a_report_draws_the_plots_that_are_gone(few, done):
    plot = done / "plots" / "acc_by_bin.png"
    before = plot.read_bytes()
    plot.unlink()
    said = []
    pipeline.report(few(), said.append)
    assert said[0] == "report: drawn once more, as they were gone: acc_by_bin.png"
    assert "up to date" not in said[1]
    assert plot.read_bytes() == before


def test_two_writers_are_refused_before_a_model_is_loaded(few, no_engine, outputs):
    folder = pipeline.prepare(few(), quiet)
    no_engine()
    before = (folder / "status.json").read_bytes()
    with lock.locked(folder), pytest.raises(InputError, match="is still running; wait for it, or stop it"):
        pipeline.run(few(), quiet)
    assert (folder / "status.json").read_bytes() == before
    assert folders(outputs) == [folder]


def test_the_report_of_a_run_under_way_is_partial_and_leaves_the_status(few, done):
    status.begin(done, owner="somebody")
    with lock.locked(done):
        pipeline.report(few(), quiet)
        assert status.reconcile(done)["status"] == "running"
    text = (done / "report.md").read_text()
    assert "partial run: " in text
    assert "The run was under way when this was written" in text
    pipeline.report(few(), quiet)
    assert "under way" not in (done / "report.md").read_text()
    assert status.reconcile(done)["status"] == "completed"


def test_a_newer_kvlab_analyses_anew(few, done, monkeypatch):
    said = []
    pipeline.analyze(few(), said.append)
    monkeypatch.setattr(stages, "__version__", "99")
    pipeline.analyze(few(), said.append)
    assert [line.startswith("analyze: up to date") for line in said] == [True, False]


def test_question_and_answer_must_fit_too(few, outputs):
    """2,000 tokens of context fit 2,048; with the question and an answer of 40 they do not."""
    fits = few("dataset.lengths_tokens=[1900]", "dataset.n_per_bin=1")
    assert pipeline.prepare(fits, quiet)
    with pytest.raises(InputError, match=r"tokens are what context, question and answer .* model has 2048"):
        pipeline.prepare(few("dataset.lengths_tokens=[2000]", "decoding.max_new_tokens=40"), quiet)
    assert len(folders(outputs)) == 1


def test_throughput_is_over_the_time_that_passed(done):
    """A request every ten seconds, each answered in one, are six a minute and not sixty."""
    with Database(done / "run.sqlite") as database:
        database.sql.execute(
            """UPDATE telemetry SET sent_ns = n * 10000000000, done_ns = n * 10000000000 + 1000000000 FROM
            (SELECT request_id AS id, row_number() OVER (ORDER BY request_id) AS n FROM telemetry) WHERE id = request_id"""
        )
    with RunData.open(done) as data:
        (session,) = estimate.sessions(data.requests)
    assert (session["requests"], session["answers"], session["elapsed_s"]) == (6, 6, 51.0)
    assert session["answers_per_min"] == pytest.approx(6 / 51 * 60)


@pytest.fixture
def summaries(tmp_path):
    """A LongBench task that kvlab cannot score."""
    rows = [
        {"input": "", "context": f"Report {i}. " + "The board met and agreed. " * 40, "answers": ["It met."],
         "length": 200, "dataset": "gov_report", "language": "en", "all_classes": None, "_id": str(i)}
        for i in range(4)
    ]  # fmt: skip
    (tmp_path / "gov_report.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "dataset.name=longbench", "dataset.task=gov_report", f"dataset.path={tmp_path}", "dataset.unscored=true",
        "dataset.n_bins=1", "kv.max_added_budgets=1", "kv.controls=[noise_floor]",
    ]  # fmt: skip


def test_a_task_without_a_score_has_a_report_of_failures_and_costs(job, tiny, summaries):
    automatic = [*summaries, "analysis.metric=auto"]
    folder = pipeline.everything(job(tiny, automatic), quiet).parent
    assert read(folder, "SELECT DISTINCT em, f1, contains FROM scores") == [(None, None, None)]
    found = summary(folder)
    assert found["headline"].startswith("failures and costs alone, as this task has no score: ")
    assert found["results"]["metric"] == "answered"
    (labelled,) = read(folder, "SELECT count(*) FROM scores WHERE outcome IS NOT NULL")
    assert labelled[0] > 0, "answers of four tokens are cut off"
    assert "kvlab has no score for this task" in (folder / "report.md").read_text()


def test_a_score_that_a_task_has_not_is_refused_before_anything_is_asked(job, tiny, summaries, outputs):
    with pytest.raises(
        InputError, match=r"analysis\.metric: 'f1' cannot be computed: this task has no score"
    ):
        pipeline.prepare(job(tiny, [*summaries, "analysis.metric=f1"]), quiet)
    assert not folders(outputs)


def test_a_resume_of_a_run_under_way_is_refused(few):
    folder = pipeline.prepare(few(), quiet)
    with lock.locked(folder), pytest.raises(InputError, match="is still running; wait for it, or stop it"):
        runner.run(runner.Request("kv_budget_transition", resume=folder), quiet)
    assert status.reconcile(folder)["reason"] == "prepared; nothing is asked yet"


def test_a_notebooks_first_cell_may_be_run_twice(few):
    folder = pipeline.prepare(few(), quiet)
    cell = {**few().params.model_dump(), "run_dir": str(folder), "profile": "small"}
    first = api.open("kv_budget_transition", cell)
    second = api.open("kv_budget_transition", cell)
    assert (first.closed, second.closed) == (True, False)
    first.close()
    assert lock.is_locked(folder), "it is the second one's"
    second.abandon()
    assert not lock.is_locked(folder)


def test_nothing_measured_is_invalid_and_has_a_report(few):
    """Only prepared, then opened without measuring; the metric is chosen from the examples, not from the answers."""
    folder = pipeline.prepare(few("analysis.metric=auto"), quiet)
    for _ in ("prepared", "opened"):
        summary = build.rebuild(folder, kv_budget_transition.EXPERIMENT)
        assert (summary.verdict, summary.results["metric"]) == ("INVALID", "contains")
        assert "0 of 6" in summary.reasons[0]
        assert "**INVALID**" in (folder / "report.md").read_text()
        with pipeline.opened(few("analysis.metric=auto")):
            pass


def test_a_database_without_a_dataset_is_invalid_too(few):
    folder = pipeline.prepare(few("analysis.metric=auto"), quiet)
    with Database(folder / "run.sqlite") as database:
        for table in ("manifest_entries", "bins", "examples", "datasets"):
            database.sql.execute(f"DELETE FROM {table}")
    assert build.rebuild(folder, kv_budget_transition.EXPERIMENT).verdict == "INVALID"


def test_an_attempt_that_was_stopped_has_a_number_that_no_other_has(few, monkeypatch):
    """Its answers count together or not at all: the next attempt asks all of them again."""
    made, count = local._recorded, iter(range(100))

    def stopped(*arguments):
        if next(count) == 1:  # the first trial has two answers
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(local, "_recorded", stopped)
    folder = pipeline.prepare(few(), quiet)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(few(), quiet)
    assert read(folder, "SELECT count(*) FROM requests") == [(0,)]
    assert pipeline.everything(few(), quiet).parent == folder
    numbers = read(folder, "SELECT attempt, count(*) FROM requests GROUP BY attempt ORDER BY attempt")
    assert numbers == [(1, 4), (2, 2)]
    assert all(".a2/" in row[0] for row in read(folder, "SELECT request_id FROM requests WHERE attempt = 2"))
    assert summary(folder)["verdict"] == "PASS"


def test_of_a_trial_that_was_measured_again_the_last_attempt_counts(few, done):
    """Whole: an answer of the attempt before stands for none that the last one lacks."""
    with Database(done / "run.sqlite") as database:
        first = database.sql.execute("SELECT trial_id FROM trials ORDER BY ordinal").fetchone()[0]
    with pipeline.opened(few()) as session:
        (trial,) = (trial for trial in session.trials if trial.trial_id == first)
        session.measure(trial)
        answers = estimate.Answers.of(session.data(), session.params).frame
    assert answers.groupby("trial_id")["attempt"].unique().map(list).to_dict()[first] == [2]
    assert len(answers) == 6
    with Database(done / "run.sqlite") as database:
        query = "SELECT request_id FROM requests WHERE attempt = 2 ORDER BY request_id LIMIT 1"
        lost = database.sql.execute(query).fetchone()[0]
        for table in ("scores", "kv_budgets", "responses", "telemetry", "requests"):
            database.sql.execute(f"DELETE FROM {table} WHERE request_id = ?", (lost,))
    with RunData.open(done) as data:
        assert len(estimate.Answers.of(data, few().params).frame) == 5


@pytest.mark.parametrize("name", ["my[1]", "a*", "what?", "[!x]"])
def test_the_name_of_a_configuration_is_no_pattern(few, outputs, name):
    few()  # writes the configuration
    config = (outputs.parent / "small.yaml").rename(outputs.parent / f"{name}.yaml")
    folder = pipeline.prepare(pipeline.staged_run(config, FEW, outputs=outputs), quiet)
    assert pipeline.staged_run(config, FEW, outputs=outputs).folder == folder
    other = config.rename(outputs.parent / "my1.yaml")
    assert pipeline.staged_run(other, FEW, outputs=outputs).folder is None


def test_each_run_has_its_own_pace_and_its_own_warm_up(few, outputs):
    """A pace was once kept by the address of an engine, which another one may get."""
    states = []
    for rpm in ("null", "600"):
        with pipeline.opened(few(f"engine.max_rpm={rpm}", new=True)) as session:
            states.append(session.state)
    assert [state.pace.gap_s for state in states] == [0.0, 0.1]
    assert [state.is_warm for state in states] == [False, False]
