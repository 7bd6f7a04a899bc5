"""Requests that were expected to be hits and were not: which they are, and why."""

import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api, misses
from kvlab.errors import InputError
from kvlab.laws.causes import Knowledge, MissCause, Request
from kvlab.laws.law import CacheLaw

QUICK = {"base_ms": 0, "itl_ms": 0, "output_tokens": 1}
KNOWN = Knowledge(law=CacheLaw(16), cache_on=True, tenants_share=False, others=False)


def requests(*rows, exact=True):
    """Make requests, a second apart: (tokens, cached, arm, tenant)."""
    made = []
    for i, (tokens, cached, arm, tenant) in enumerate(rows):
        state = (
            "hit"
            if cached and cached == CacheLaw(16).full_hit(len(tokens))
            else "partial"
            if cached
            else "cold"
        )
        one = Request(f"r{i}", tuple(tokens), float(i), cached, tenant)
        made.append(misses.Sent(one, arm, state, True, i + 0.5, exact))
    return made


def causes(*rows, known=KNOWN, exact=True):
    found = misses.missed(requests(*rows, exact=exact), known)
    return {one.request.request_id: cause for one, cause in found}


A, B = list(range(100)), list(range(1000, 1100))


def test_full_hits_and_prompts_that_share_nothing_are_no_misses():
    assert causes((A, 0, "cold", None), (A, 96, "hit", None), (B, 0, "cold", None)) == {}


def test_a_prompt_that_all_was_served_of_is_no_miss_whatever_its_label():
    assert causes((A, 0, "any", None), (A[:50] + B, 48, "any", None)) == {}


def test_a_hit_that_differs_names_the_token():
    cause = causes((A, 0, "cold", None), (A[:40] + B, 32, "hit", None))["r1"]
    assert cause.cause is MissCause.DIFFERS
    assert "token 41 of 140" in cause.why


@pytest.mark.parametrize(
    ("rows", "known", "cause"),
    [
        ([(A, 0, "cold", None), (B, 0, "hit", None)], {}, MissCause.NEVER_SEEN),
        ([(A[:12], 0, "cold", None), (A[:12], 0, "hit", None)], {}, MissCause.BELOW_GRAIN),
        ([(A, 0, "cold", None), (A, 0, "hit", None)], {"law": CacheLaw(16, 1024)}, MissCause.BELOW_MINIMUM),
        ([(A, 0, "cold", None), (A, 0, "hit", None)], {"cache_on": False}, MissCause.CACHE_OFF),
        ([(A, 0, "cold", "s"), (A, 0, "hit", "t")], {}, MissCause.OTHER_TENANT),
        ([(A, 0, "any", None), (A, 0, "any", None)], {}, MissCause.UNKNOWN),
        (
            [(A, 0, "any", None), (B, 0, "any", None), (A, 0, "any", None)],
            {"capacity_low": 112, "capacity_high": 112, "ttl_low_s": 99.0, "by_use": True},
            MissCause.EVICTED,
        ),
    ],
)  # fmt: skip
def test_each_kind_has_its_name(rows, known, cause):
    found = causes(*rows, known=Knowledge(**{**KNOWN.__dict__, **known}))
    assert [one.cause for one in found.values()] == [cause]


def test_the_same_tokens_under_another_salt_are_expected_cold_unless_they_are_meant_as_a_hit():
    assert causes((A, 0, "cold", "s"), (A, 0, "cold", "t")) == {}


def test_what_was_not_answered_yet_cannot_be_hit():
    first, second = requests((A, 0, "any", None), (A, 0, "any", None))
    late = misses.Sent(first.request, "any", "cold", True, 1.5, True)
    assert list(misses.missed([late, second], KNOWN)) == []


def test_an_estimated_place_close_to_a_step_gives_no_cause():
    rows = (A, 0, "cold", None), (A[:50] + B, 32, "hit", None)
    assert causes(*rows, exact=True)["r1"].cause is MissCause.UNKNOWN  # 48 were there
    assert causes(*rows, exact=False)["r1"].cause is MissCause.UNKNOWN
    close = causes((A, 0, "cold", None), (A[:50] + B, 48, "hit", None), exact=False)["r1"]
    assert close.cause is MissCause.DIFFERS
    assert "about token 51" in close.why


def test_a_law_that_is_not_known_names_nothing():
    assert causes((A, 0, "cold", None), (A, 0, "hit", None), known=Knowledge()) == {}


def test_a_sweep_on_a_cache_that_is_too_small_says_what_was_missed_and_why_answers_for_two(point_at):
    sweep = {
        "profile": "smoke",
        "token_targets": [700],
        "repeats": 2,
        "position_controls": 0,
        "max_tokens": 2,
    }
    with FakeServer(**QUICK) as server:
        point_at(server)
        run = api.open("token_sweep", sweep)
        for trial in run.pending():
            server.control(capacity_blocks=8)
            run.measure(trial)
        summary = run.finish()
    folder = run.folder
    loaded = api.load(folder)
    rows = loaded.findings.table("misses").stored()
    assert {row[rows.columns.index("cause")] for row in rows.rows} == {"unknown"}
    text = (folder / "report.md").read_text()
    assert misses.TITLE in text
    assert "evicted" in text
    cold, hit = (loaded.requests.query(f"arm == '{arm}'")["request_id"].iloc[0] for arm in ("cold", "hit"))
    cause = loaded.why(cold, hit)
    assert cause.cause is MissCause.UNKNOWN
    assert cause.earlier == cold
    assert summary.verdict == "INVALID"
    with pytest.raises(InputError, match="exchange"):
        loaded.why(hit, cold)
    with pytest.raises(InputError, match="no request"):
        loaded.why("x", hit)
