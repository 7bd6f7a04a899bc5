"""A server's own account of what it reused, held against stored answers."""

import pytest

from benchmarks.engines import truth
from benchmarks.engines.truth import Log, prompts_of

#: As llama.cpp's server writes it at level 4; a prompt of several batches says more than once what is there by then.
LOG = """\
0.01.2 I slot launch_slot_: id  3 | task 0 | processing task, is_child = 0
0.01.2 I slot update_slots: id  3 | task 0 | new prompt, n_ctx_slot = 8192, n_keep = 0, task.n_tokens = 2500
0.01.3 I slot update_slots: id  3 | task 0 | cached n_tokens = 5, memory_seq_rm [5, end)
0.01.4 I slot update_slots: id  3 | task 0 | cached n_tokens = 2053, memory_seq_rm [2053, end)
0.02.2 I slot update_slots: id  3 | task 9 | new prompt, n_ctx_slot = 8192, n_keep = 0, task.n_tokens = 2500
0.02.3 I slot update_slots: id  3 | task 9 | cached n_tokens = 2499, memory_seq_rm [2499, end)
0.03.2 I slot update_slots: id  0 | task 12 | new prompt, n_ctx_slot = 8192, n_keep = 0, task.n_tokens = 9000
"""


def test_each_prompt_has_its_length_and_what_was_there_at_first():
    assert prompts_of(LOG) == [(2500, 5), (2500, 2499)]


@pytest.fixture
def stored(monkeypatch):
    def put(*pairs, apart_s=10.0):
        rows = [
            {
                "request_id": str(n), "prompt_tokens": length, "cached_tokens": cached,
                "sent_s": 1 + n * apart_s, "done_s": 2 + n * apart_s,
            }
            for n, (length, cached) in enumerate(pairs)
        ]  # fmt: skip
        monkeypatch.setattr(truth, "answered", lambda folder: rows)

    return put


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "server.log"
    path.write_text("an earlier run\n")
    account = Log(path)
    account.begin()
    path.write_text(path.read_text() + LOG)
    return account


def test_answers_are_those_of_the_log(stored, log, tmp_path):
    stored((2500, 5), (2500, 2499))
    assert (log.compare(tmp_path, None).equal, log.compare(tmp_path, None).of) == (2, 2)
    stored((2500, 2499))  # the first prompt was a probe's
    assert log.compare(tmp_path, None).equal == 1


def test_an_answer_that_says_something_else_is_shown(stored, log, tmp_path):
    stored((2500, 5), (2500, 2496))
    found = log.compare(tmp_path, None)
    assert (found.equal, found.of) == (1, 2)
    assert found.off == ("1: (2500, 2496), log (2500, 2499)",)


def test_requests_that_overlap_must_be_there_as_often(stored, log, tmp_path):
    stored((2500, 2499), (2500, 5), apart_s=0.1)
    assert log.compare(tmp_path, None).equal == 2
    stored((2500, 5), (2500, 5), apart_s=0.1)
    assert log.compare(tmp_path, None).equal == 1


def test_a_log_that_tells_of_too_little_agrees_with_nothing(stored, log, tmp_path):
    stored(*[(2500, 5)] * 3)
    assert log.compare(tmp_path, None).equal == 0
