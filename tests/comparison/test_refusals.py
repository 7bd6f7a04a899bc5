"""The ways in which two runs may not be compared, each by the name of its field; the list is that of the documentation."""

import re

import pytest

import kvlab as kv
from kvlab.comparison.refusals import FINAL
from tests.command.tool import kvlab
from tests.comparison import made
from tests.conftest import ROOT
from tests.golden import stored

UNSOUND = "PRAGMA foreign_keys = OFF; "
WAYS = {
    "unfinished": {"sql": "UPDATE trials SET status = 'planned' WHERE ordinal > 9"},
    "compare_metric": {"params": {"compare_metric": "cold.ttft_ms"}},
    "compare_margin": {"params": {"compare_margin": 0.2}},
    "params.max_tokens": {"params": {"max_tokens": 99}},
    "prompt_template_hash": {"contract": {"prompt_template_hash": "another"}},
    "dataset_hash": {"contract": {"dataset_hash": "another"}},
    "query_mode": {"contract": {"query_mode": "aware"}},
    "policy": {"contract": {"policy": "knorm"}},
    "tokenizer": {"contract": {"tokenizer": "another"}},
    "model": {"contract": {"model": {"name": "another", "revision": "2"}}},
    "law": {"identity": {"block_size": 128}},
    "failures": {"sql": "UPDATE trials SET status = 'failed' WHERE ordinal < 4"},
    "cache_state": {"sql": "UPDATE responses SET cache_state = 'cold'"},
    "prompt_tokens": {"sql": "UPDATE responses SET prompt_tokens = prompt_tokens * 6 / 5, cached_tokens = cached_tokens * 6 / 5"},
    "cached_tokens": {"sql": "UPDATE responses SET cached_tokens = cached_tokens / 2"},
    "completion_tokens": {
        "sql": "UPDATE responses SET completion_tokens = completion_tokens * 2", "params": {"compare_metric": "hit.latency_ms"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Return the run that all others are compared with, by the metric that it has named."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        metric: made.run(folder, f"base-{metric}", seed=1, params={"compare_metric": metric})
        for metric in ("hit.ttft_ms", "hit.latency_ms")
    }


@pytest.fixture
def pair(bases, tmp_path):
    def of(field):
        base = bases["hit.latency_ms" if field == "completion_tokens" else "hit.ttft_ms"]
        return base, made.run(tmp_path, "other", seed=2, **WAYS[field])

    return of


@pytest.mark.parametrize("field", WAYS)
def test_what_may_not_be_compared_is_refused_by_name(pair, field):
    found = kv.compare(*pair(field))
    content = found.as_json()
    assert (found.exit_code, content["verdict"], content["ratio"]) == (2, None, None)
    assert content["refused_because"].startswith(f"{field}: ")


@pytest.mark.parametrize("field", [field for field in WAYS if field not in FINAL])
def test_whoever_wants_just_that_difference_names_it(pair, field):
    found = kv.compare(*pair(field), across=[field])
    assert found.verdict is not None
    assert field in found.across


@pytest.mark.parametrize("field", ["unfinished", "failures"])
def test_no_name_opens_what_leaves_nothing_to_compare(pair, field):
    assert kv.compare(*pair(field), across=[field]).verdict is None


def test_runs_of_two_experiments_are_refused(bases, tmp_path):
    other = stored.copy("prefix_hit_miss", tmp_path / "2026-01-01" / "other")
    assert kv.compare(bases["hit.ttft_ms"], other).as_json()["refused_because"].startswith("experiment: ")


def test_the_command_refuses_with_the_field_and_2(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path))
    result = kvlab("compare", *map(str, pair("tokenizer")))
    assert result.returncode == 2
    assert result.stderr.startswith("kvlab: not comparable: tokenizer: ")
    (page,) = tmp_path.glob("comparisons/*/compare.html")
    assert "NOT COMPARABLE" in page.read_text()


def test_every_way_is_in_the_documentation_and_every_one_there_is_a_way():
    page = (ROOT / "docs" / "howto" / "compare.md").read_text()
    listed = set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE))
    assert listed == {field.split(".")[0] for field in WAYS} | {"experiment"}


def test_what_only_weakens_is_said_and_forbids_nothing(bases, tmp_path):
    base = bases["hit.ttft_ms"]
    busy = (
        "INSERT INTO observations (session_id, trial_id, t_ns, name, value) "
        "SELECT 1, trial_id, 1, 'foreign_cpu_share', 0.6 FROM trials;"
    )
    unknown = "UPDATE responses SET cache_state = 'unverified';"
    other = made.run(tmp_path, "other", seed=2, sql=busy, contract={"machine": {"cores": 1}})
    lines = " ".join(kv.compare(base, other).weakened)
    assert "took an unknown share of the machine on one side and 60%" in lines
    assert "machines differ" in lines
    blind = [made.run(tmp_path, f"blind{k}", seed=k, sql=unknown) for k in range(2)]
    assert "unverified" in " ".join(kv.compare(*blind).weakened)
