"""Where a dataset comes from: the cache, its source, a manifest, or the database of the run."""

import json
import shutil

import pytest

from kvlab.command import pipeline
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import prepared
from kvlab.settings import load_settings
from tests.command.tool import read
from tests.experiments.kv_budget_transition.test_pipeline import FEW

QUESTIONS = [
    "dataset.name=multidoc_qa", "dataset.lengths_tokens=[200]", "dataset.n_bins=1", "dataset.n_per_bin=2",
    "kv.max_added_budgets=0", "kv.controls=[]", "analysis.metric=auto",
]  # fmt: skip


def quiet(line):
    del line


@pytest.fixture
def questions(tmp_path):
    """A small file of the multi-document format."""
    rows = [
        {"question": f"What is number {i}?", "answers": [f"word{i}"],
         "ctxs": [{"title": f"Number {i}", "text": f"Number {i} is word{i}. " * 5, "hasanswer": True, "isgold": True}]}
        for i in range(8)
    ]  # fmt: skip
    path = tmp_path / "source" / "questions.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_changed_tokenizer_is_another_dataset(job, tiny, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    params = job(model, FEW).params
    before, manifest = prepared.path_of(params, load_settings()), prepared.manifest(params)
    assert prepared.path_of(params, load_settings()) == before
    path = model / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content["chat_template"] = content.get("chat_template", "") + "{# changed #}"
    path.write_text(json.dumps(content))
    template = model / "chat_template.jinja"
    if template.is_file():
        template.write_text(template.read_text() + "{# changed #}")
    assert prepared.path_of(params, load_settings()) != before
    assert prepared.manifest(params).tokenizer.revision != manifest.tokenizer.revision


def test_a_run_goes_on_without_its_source(job, tiny, questions):
    overrides = [*QUESTIONS, f"dataset.path={questions}"]
    folder = pipeline.prepare(job(tiny, overrides), quiet)
    shutil.rmtree(questions.parent)
    assert pipeline.everything(job(tiny, overrides), quiet).parent == folder
    assert read(folder, "SELECT count(*) FROM responses") == [(4,)]
    with pytest.raises(InputError, match=r"path: .*questions\.jsonl' is not there"):
        pipeline.prepare(job(tiny, overrides, new=True), quiet)


def test_a_manifest_asks_the_same_elsewhere(job, tiny, questions, tmp_path):
    first = pipeline.prepare(job(tiny, [*QUESTIONS, f"dataset.path={questions}"]), quiet)
    given = tmp_path / "elsewhere.json"
    shutil.copy(first / "dataset_manifest.json", given)
    shutil.rmtree(questions.parent)
    overrides = [
        "kv.max_added_budgets=0",
        "kv.controls=[]",
        "analysis.metric=auto",
        f"dataset.manifest={given}",
    ]
    found = job(tiny, overrides)
    assert found.resolved.sources["dataset.lengths_tokens"].startswith("left out")
    folder = pipeline.everything(found, quiet).parent
    assert folder != first
    ids = "SELECT example_id, bin_idx, token_len FROM manifest_entries ORDER BY ordinal"
    assert read(folder, ids) == read(first, ids)
    assert (folder / "dataset_manifest.json").read_bytes() == given.read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.pop("examples"), "examples: field required (given.json)"),
        (
            lambda content: content["examples"][0].update(question="?"),
            "dataset_hash does not fit the content",
        ),
        (lambda content: content["examples"].pop(), "entries and examples do not name the same"),
        (lambda content: content.update(contract={}), "is the contract of a run; its dataset is in"),
        (lambda content: content.clear(), "field required"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused_by_name(job, tiny, tmp_path, change, says):
    given = tmp_path / "given.json"
    content = prepared.manifest(job(tiny, FEW).params).model_dump(mode="json")
    change(content)
    given.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        pipeline.prepare(job(tiny, [f"dataset.manifest={given}"]), quiet)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_there_and_one_beside_other_parameters(job, tiny, tmp_path):
    with pytest.raises(
        InputError, match=r"dataset\.manifest: .*none\.json' is not there; name the dataset_man"
    ):
        pipeline.prepare(job(tiny, [f"dataset.manifest={tmp_path / 'none.json'}"]), quiet)
    with pytest.raises(InputError, match="n_per_bin is set beside manifest"):
        job(tiny, ["dataset.manifest=x.json", "dataset.n_per_bin=3"])
