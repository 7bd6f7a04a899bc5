import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.servers.process import FakeServer
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import probe
from kvlab.endpoints.counter import CalibratedCounter, ServerCounter, shared_prefix
from kvlab.endpoints.identify import identify
from kvlab.errors import InputError, ServerError
from kvlab.prompts import exact, manual
from kvlab.settings import load_settings

NAMES = exact.Names("token_targets", "manual_sections")


class Words:
    """Counts words of up to three letters as one token, longer ones as one a letter beyond."""

    exact, source = True, "test"

    def __call__(self, prompt):
        return 4 + sum(max(1, len(word) - 2) for word in re.findall(r"\S+", prompt["prompt"]))


@settings(deadline=None)
@given(st.integers(8, 900))
def test_a_prompt_has_exactly_the_target_length(target):
    text = manual.manual(17, 40, "0123456789abcdef")
    prompt = exact.fit(lambda cut: {"prompt": f"Q {cut} Z"}, text, target, Words(), NAMES).prompt
    assert Words()(prompt) == target


def test_too_short_and_too_long_targets_are_refused_by_name():
    for target, hint in ((3, "raise it"), (10**6, "raise manual_sections")):
        with pytest.raises(InputError, match=hint):
            exact.fit(lambda cut: {"prompt": cut}, "one two three", target, Words(), NAMES)


def test_the_manual_is_seeded_and_carries_its_marker_in_every_section():
    first, again, other = (
        manual.manual(1, 20, "aaaa"),
        manual.manual(1, 20, "aaaa"),
        manual.manual(2, 20, "aaaa"),
    )
    assert first == again != other
    assert first.count("aaaa") == 20
    assert manual.manual(1, 20, "bbbb").replace("bbbb", "aaaa") == first


def test_markers_differ_by_run_trial_session_and_attempt():
    tags = [(i, f"t{t}.s{s}.a{a}") for i in ("x", "y") for t in (1, 2) for s in (1, 2) for a in (1, 2)]
    assert len({manual.marker(*tag) for tag in tags}) == 16


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("role", ["system", "user"])
def test_the_marker_comes_first(api, role):
    prompt = manual.build("MARK", "text", api=api, question="why?", marker_role=role)
    head = prompt["messages"][0]["content"] if api == "chat" else prompt["prompt"]
    assert head.startswith("MARK")
    assert "SESSION_PREFIX_HASH" in head


def connect(point_at, server):
    point_at(server)
    connection = endpoint.connect(load_settings())
    return connection, probe.probe(connection, identify(connection))


def test_the_server_counts_its_own_template(point_at):
    with FakeServer(base_ms=1, itl_ms=0, template_prefix_tokens=24) as server:
        connection, identity = connect(point_at, server)
        with connection:
            counter = probe.counter(connection, identity)
            assert isinstance(counter, ServerCounter)
            build = lambda cut: manual.build("ab12", cut, api="chat", question="why?", marker_role="system")  # noqa: E731
            prompt = exact.fit(build, manual.manual(1, 60, "ab12"), 700, counter, NAMES).prompt
            body = {
                "model": "fake",
                **prompt,
                "max_tokens": 1,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            usage = connection.client.measure("/chat/completions", body, "x").generation.usage
            assert usage["prompt_tokens"] == 700
            other = manual.build("cd34", "", api="chat", question="why?", marker_role="system")
            assert 24 <= shared_prefix(counter, build(""), other) < 32


def test_without_a_tokenizer_the_count_is_calibrated_and_says_so(point_at):
    with FakeServer(base_ms=1, itl_ms=0, tokenize=False) as server:
        connection, identity = connect(point_at, server)
        with connection:
            counter = probe.counter(connection, identity)
    assert isinstance(counter, CalibratedCounter)
    assert not counter.exact
    assert shared_prefix(counter, {"prompt": "a"}, {"prompt": "b"}) == 0


def test_without_tokenizer_and_usage_no_prompt_can_be_sized(point_at):
    with FakeServer(base_ms=1, itl_ms=0, tokenize=False, usage="none") as server:
        connection, identity = connect(point_at, server)
        with connection, pytest.raises(ServerError, match="no prompt can be sized"):
            probe.counter(connection, identity)
