"""The stages on their own: what each refuses, what each leaves alone, what a budget must be."""

import json
from dataclasses import replace

import pytest
import yaml

from kvlab.command import pipeline
from kvlab.errors import InputError
from kvlab.experiments import kv_budget_transition
from kvlab.experiments.kv_budget_transition import estimate, local
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams, metric_of
from kvlab.params import resolve
from kvlab.runs.data import RunData
from kvlab.settings import load_settings
from kvlab.store.database import Database
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure
from tests.command.tool import folders, kvlab, read
from tests.conftest import ROOT


def quiet(line):
    del line


def test_the_defaults_are_those_of_default_yaml():
    """So that a notebook whose groups name a part gets the same as the command."""
    content = yaml.safe_load((ROOT / "params/kv_budget_transition/default.yaml").read_text())
    assert KVBudgetTransitionParams.check(content) == KVBudgetTransitionParams()


@pytest.mark.parametrize("stage", ["run", "score", "analyze", "report"])
def test_a_stage_before_its_time_is_refused(job, tiny, stage):
    with pytest.raises(InputError, match="kv prepare"):
        getattr(pipeline, stage)(job(tiny), quiet)


def test_each_stage_names_the_one_that_is_missing(job, tiny, outputs):
    pipeline.prepare(job(tiny), quiet)
    with pytest.raises(InputError, match="nothing was asked yet; run `kvlab kv run`"):
        pipeline.score(job(tiny), quiet)
    with pytest.raises(InputError, match="is missing or older"):
        pipeline.report(job(tiny), quiet)
    pipeline.run(job(tiny), quiet)
    with Database(job(tiny).folder / "run.sqlite") as database:
        database.sql.execute("DELETE FROM scores")
    with pytest.raises(InputError, match="answers are missing; run `kvlab kv score`"):
        pipeline.analyze(job(tiny), quiet)
    assert len(folders(outputs)) == 1, "all of them work on one folder"


def test_a_partial_run_says_so(job, tiny):
    found = job(tiny)
    with pipeline.opened(found) as session:
        folder = session.folder
        for trial in session.trials[:5]:
            session.measure(trial)
    pipeline.score(job(tiny), quiet)
    summary = pipeline.analyze(job(tiny), quiet)
    pipeline.report(job(tiny), quiet)
    assert summary.verdict == "INVALID"
    assert summary.headline.startswith("partial run: ")
    assert "partial run" in (folder / "report.md").read_text()
    assert "a partial run" in json.loads((folder / "status.json").read_text())["reason"]
    pipeline.everything(job(tiny), quiet)
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "PASS"


def test_an_engine_that_broke_is_asked_again_and_a_model_that_failed_is_not(job, tiny, monkeypatch):
    kinds = iter([ErrorType.ENGINE_ERROR, ErrorType.OUT_OF_MEMORY])
    measured = local._measurement

    def broken(made, prompt_tokens):
        kind = next(kinds, None)
        found = measured(made, prompt_tokens)
        return found if kind is None else replace(found, generation=None, failure=Failure(kind, "made up"))

    monkeypatch.setattr(local, "_measurement", broken)
    overrides = ["kv.budgets=[1.0]", "kv.controls=[]", "max_attempts=1"]
    folder = pipeline.prepare(job(tiny, overrides), quiet)
    pipeline.run(job(tiny, overrides), quiet)
    assert dict(
        read(folder, "SELECT status, count(*) FROM trials WHERE trial_id NOT LIKE 'r%' GROUP BY 1")
    ) == {
        "failed": 1,
        "done": 11,
    }
    pipeline.run(job(tiny, overrides), quiet)
    asked = (
        "SELECT attempt, error_type FROM requests LEFT JOIN failures USING (request_id) WHERE example_id = "
    )
    asked += "(SELECT example_id FROM requests WHERE attempt = 2)"
    assert read(folder, asked) == [(1, "ENGINE_ERROR"), (2, None)]
    assert read(folder, "SELECT count(*) FROM requests") == [(13,)]


def test_other_parameters_have_another_folder_and_new_makes_one(job, tiny, outputs):
    first = pipeline.prepare(job(tiny), quiet)
    assert job(tiny).folder == first
    assert job(tiny, ["kv.budgets=[1.0,0.25]"]).folder is None
    assert job(tiny, new=True).folder is None
    with pytest.raises(InputError, match="has another seed than the config, so other answers"):
        pipeline.staged_run(outputs.parent / "small.yaml", ["seed=7"], run=first, outputs=outputs)


def test_observed_is_planned_and_budget_one_is_no_policy(job, tiny):
    folder = pipeline.prepare(job(tiny, ["kv.query_mode=aware"]), quiet)
    pipeline.run(job(tiny, ["kv.query_mode=aware"]), quiet)
    for n_planned, n_kept, layers in read(folder, "SELECT n_planned, n_kept_json, n_context FROM kv_budgets"):
        assert set(json.loads(n_kept)) == {n_planned}
        assert n_planned <= layers
    tokens = read(
        folder,
        "SELECT r.example_id, count(DISTINCT json_extract(p.usage_json, '$.completion_token_ids')), count(*) FROM requests r "
        "JOIN responses p USING (request_id) JOIN kv_budgets k USING (request_id) "
        "WHERE k.budget = 1 AND r.phase IN ('planned', 'noise_floor') GROUP BY 1",
    )
    assert sorted((both, same) for _, same, both in tokens) == [(1, 1)] * 6 + [(2, 1)] * 6


def test_noise_of_the_prefill_is_seen(job, tiny, monkeypatch):
    """Every prefill of a context differs from the last one: the second one's first entry is another."""
    from kvlab.compression.engine import prefill

    made, count = prefill.prefill, iter(range(1000))

    def noisy(*arguments):
        state = made(*arguments)
        state.values[0] *= 1 + 50 * next(count)
        return state

    monkeypatch.setattr(prefill, "prefill", noisy)
    overrides = ["kv.budgets=[1.0]", "kv.controls=[noise_floor]", "kv.max_added_budgets=0"]
    pipeline.everything(job(tiny, overrides), quiet)
    summary = json.loads((job(tiny, overrides).folder / "summary.json").read_text())
    assert summary["verdict"] == "FAIL"
    assert "budget 1.0 once more gives the same tokens" in summary["reasons"][0]


def test_a_number_of_entries_is_a_budget_too(job, tiny):
    overrides = [
        "kv.budgets=[1.0,0.5,100]",
        "kv.max_added_budgets=0",
        "kv.controls=[]",
        "dataset.n_per_bin=1",
    ]
    report = pipeline.everything(job(tiny, overrides), quiet)
    kept = read(report.parent, "SELECT DISTINCT n_planned, n_kept_json FROM kv_budgets WHERE budget = 100")
    assert kept == [(100, "[100, 100]")]
    summary = json.loads((report.parent / "summary.json").read_text())
    assert summary["verdict"] == "PASS"
    assert summary["results"]["budgets_planned"] == [1.0, 0.5, 100.0]
    tables = {item.name: item for item in pipeline.analyze(job(tiny, overrides), quiet).tables}
    assert [row[0] for row in tables["accuracy_over_budget"].rows] == ["1", "0.5", "100 tokens"]
    assert tables["integrity"].columns == ["label", "1", "0.5", "100 tokens"]
    assert "at 100 tokens" in report.read_text()


def test_more_entries_than_a_context_has_are_no_budget(job, tiny, outputs):
    with pytest.raises(
        InputError, match=r"^kv\.budgets: 200 is no smaller than the shortest context, of 200 tokens"
    ):
        pipeline.prepare(job(tiny, ["kv.budgets=[1.0,200]"]), quiet)
    assert not folders(outputs)


@pytest.mark.parametrize(
    ("budgets", "round_one"),
    [
        ("[1.0,100]", (149.0, "budget 149 tokens is added: between 1 and 100 tokens mean")),
        ("[1.0,0.9,100]", (0.95, "budget 0.95 is added: between 1 and 0.9 mean")),
        ("[1.0,0.99,100]", (None, "no fall of mean")),
    ],
    ids=["in entries", "in fractions", "never across"],
)
def test_a_round_halves_in_the_unit_of_its_neighbours(job, tiny, budgets, round_one):
    """Right at 1.0 alone; all falls are between 1.0 and the next one."""
    overrides = [f"kv.budgets={budgets}", "kv.controls=[]", "dataset.n_per_bin=1", "kv.max_added_budgets=0"]
    folder = pipeline.prepare(job(tiny, overrides), quiet)
    pipeline.run(job(tiny, overrides), quiet)
    params = job(tiny, [*overrides[:3], "kv.max_added_budgets=1"]).params
    pipeline.score(job(tiny, overrides), quiet)
    with RunData.open(folder) as data:
        data.sql.execute(
            "UPDATE scores SET contains = request_id IN (SELECT request_id FROM kv_budgets WHERE budget = 1)"
        )
        assert local.budget_of(data, params, 1, 0.1) == round_one[0]
        reason = data.sql.execute("SELECT reason FROM added_budgets").fetchone()[0]
        places = estimate.shares(data.sql, [1.0, 0.5, 100.0, 130.0])
    assert reason.startswith(round_one[1])
    assert places == {1.0: 1.0, 0.5: 0.5, 100.0: pytest.approx(100 / 260), 130.0: 0.5 - 1e-6}, (
        "two budgets are two"
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("kv.budgets=[0.5]", "must hold 1.0"),
        ("kv.budgets=[1.0,0.5,0.5]", "holds a budget twice"),
        ("kv.budgets=[1.0,0]", "kv.budgets"),
        ("kv.policy=h2o", "kv.policy: 'h2o' is unknown; choose one of"),
        ("kv.policy=snapkv-w0", "needs a window"),
        ("kv.polcy=snapkv", "kv.polcy"),
        ("decoding.temperature=0.7", "decoding.temperature: 0.7"),
        ("dataset.name=squad", "dataset.name: 'squad'"),
        ("dataset.tasks=[cat]", "dataset.tasks"),
        ("analysis.metric=rouge", "analysis.metric: 'rouge'"),
        ("engine.device=tpu", "engine.device: 'tpu'"),
    ],
)
def test_a_wrong_value_is_one_line(job, tiny, override, says):
    with pytest.raises(InputError) as caught:
        job(tiny, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_below_the_window_is_refused_by_name_and_leaves_nothing(job, tiny, outputs):
    with pytest.raises(InputError, match="snapkv-w150-k3-avg cannot honour") as caught:
        pipeline.prepare(job(tiny, ["kv.policy=snapkv-w150-k3-avg", "kv.budgets=[1.0,0.2]"]), quiet)
    assert "150" in str(caught.value)
    assert not folders(outputs)


def test_the_question_in_view_counts_towards_the_window(job, tiny):
    """A fifth of 200 entries is less than the window of 60, a part of which lies in the question."""
    overrides = ["kv.policy=snapkv-w60-k3-avg", "kv.budgets=[1.0,0.2]", "kv.query_mode=aware"]
    pipeline.prepare(job(tiny, overrides), quiet)


def test_contexts_beyond_the_model_are_refused(job, tiny, outputs):
    with pytest.raises(InputError, match=r"context, question and answer of .* need, and the model has 2048"):
        pipeline.prepare(job(tiny, ["dataset.lengths_tokens=[3000]", "dataset.n_per_bin=1"]), quiet)
    assert not folders(outputs)


def test_environment_variables_in_a_file_but_no_secrets(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("engine:\n  model: ${MY_MODEL}\n")
    with pytest.raises(InputError, match=r"engine\.model: '\$\{MY_MODEL\}' is not set"):
        resolve(KVBudgetTransitionParams, "kv_budget_transition", file=path)
    monkeypatch.setenv("MY_MODEL", "org/model")
    found = resolve(KVBudgetTransitionParams, "kv_budget_transition", file=path)
    assert found.params.engine.model == "org/model"
    assert found.sources["engine.model"] == str(path)
    path.write_text("engine:\n  model: ${OPENAI_API_KEY}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(InputError, match="would put a secret") as caught:
        resolve(KVBudgetTransitionParams, "kv_budget_transition", file=path)
    assert "sk-secret" not in str(caught.value)


def test_a_round_is_decided_once_and_follows_the_fall(job, tiny):
    """Answers are made right or wrong by hand: right at 1.0, wrong at 0.5."""
    folder = pipeline.prepare(job(tiny), quiet)
    pipeline.run(job(tiny), quiet)
    params = job(tiny).params
    pipeline.score(job(tiny), quiet)
    with RunData.open(folder) as data:
        data.sql.execute("DELETE FROM added_budgets")
        full = "(SELECT request_id FROM kv_budgets WHERE budget = 1)"
        data.sql.execute(f"UPDATE scores SET contains = request_id IN {full}")
        assert local.budget_of(data, params, 1, 0.1) == 0.75
        data.sql.execute("UPDATE scores SET contains = 1")
        assert local.budget_of(data, params, 1, 0.1) == 0.75, "what is decided stays"
        reason = data.sql.execute("SELECT reason FROM added_budgets").fetchone()[0]
    assert reason == "budget 0.75 is added: between 1 and 0.5 mean contains falls from 1.000 to 0.000"


def test_the_metric_follows_the_dataset():
    params = KVBudgetTransitionParams()
    assert metric_of(params, {"contains"}) == "contains"
    with pytest.raises(InputError, match="scored by contains, f1; name one"):
        metric_of(params, {"f1", "contains"})
    assert metric_of(params, {"none"}) == "answered"
    assert metric_of(params, set()) == "answered", "of no example there is nothing to choose"


def test_the_command_line(config, tiny, outputs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = str(config(tiny))
    shown = kvlab("kv", "resolve", "-c", path, "--set", "kv.budgets=[1.0,0.25]")
    assert shown.returncode == 0, shown
    content = yaml.safe_load(shown.stdout)
    assert content["kv"]["budgets"] == [1.0, 0.25]
    assert content["dataset"]["n_per_bin"] == 4
    assert "run.sqlite" in shown.stdout
    assert not outputs.exists()
    wrong = kvlab("kv", "validate", "-c", path, "--set", "kv.budgets=[0.5]")
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (2, 1)
    early = kvlab("kv", "analyze", "-c", path)
    assert early.returncode == 2
    assert "kvlab kv prepare" in early.stderr
    done = kvlab("kv", "all", "-c", path)
    assert done.returncode == 0, done
    (folder,) = folders(outputs)
    names = {"report.md", "run.sqlite", "dataset_manifest.json", "acc_by_bin.png", "fail_by_bin.png"}
    assert names <= {item.name for item in folder.rglob("*")}
    text = (folder / "report.md").read_text()
    for heading in (
        "What changed with the budget",
        "Where the transition is",
        "Accuracy or failures",
        "Terms",
    ):
        assert f"## {heading}" in text
    before = text
    again = kvlab("report", str(folder))
    assert again.returncode == 0
    assert (folder / "report.md").read_text() == before, "the same database, the same bytes"


@pytest.mark.parametrize(("name", "module"), [("transformers_kv", "torch"), ("openai_compat", None)])
def test_what_is_loaded_into_the_process_follows_the_engine(name, module):
    params = KVBudgetTransitionParams.check({"engine": {"name": name}})
    assert kv_budget_transition.EXPERIMENT.open(params, load_settings()).in_process == module
