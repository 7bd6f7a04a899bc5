"""The command on a real llama.cpp server, where `make engines` has built one."""

import pytest

from benchmarks.engines import places, runs, servers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    try:
        places.llama_server()
    except places.AbsentError as absent:
        pytest.skip(str(absent))
    with servers.llama_cpp(tmp_path_factory.mktemp("llama")) as place:
        yield place


def test_its_law_is_learned_and_its_labels_are_those_of_its_log(llama_cpp, tmp_path):
    row = runs.run(llama_cpp, "cache_laws", tmp_path)
    assert (row.verdict, row.law) == ("PASS", "min(P, L − 1)"), row
    assert row.account.split(" of ")[0] == row.account.split(" of ")[1], row.account_off


def test_a_token_sweep_has_proven_pairs(llama_cpp, tmp_path):
    small = ("--profile", "smoke", "--set", "token_targets=[300,640]", "--set", "repeats=3")
    row = runs.run(llama_cpp, "token_sweep", tmp_path, (*small, "--set", "position_controls=0"))
    assert (row.verdict, row.pairs) == ("PASS", "6 of 6"), row
    assert row.account.split(" of ")[0] == row.account.split(" of ")[1], row.account_off
