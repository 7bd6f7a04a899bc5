import pytest

from kvlab.laws.law import REPORTED, CacheLaw


@pytest.mark.parametrize(
    ("law", "length", "shared", "cached"),
    [
        (CacheLaw.whole_blocks(16), 65, 65, 64),
        (CacheLaw.whole_blocks(16), 64, 64, 48),
        (CacheLaw.whole_blocks(16), 64, 40, 32),
        (CacheLaw(1), 100, 100, 99),
        (CacheLaw(1), 100, 40, 40),
        (CacheLaw(128, 1024, 0), 1024, 1024, 1024),
        (CacheLaw(128, 1024, 0), 1023, 1023, 0),
        (CacheLaw(128, 1024, 0), 2000, 1300, 1280),
        (CacheLaw(2144, grains_off=1), 2 * 2144 + 1, 2 * 2144 + 1, 2144),
        (CacheLaw(2144, grains_off=1), 2144, 2144, 0),
        (CacheLaw(256, tail_grain_tokens=16), 512, 512, 496),
        (CacheLaw(256, tail_grain_tokens=16), 513, 513, 512),
        (CacheLaw(256, tail_grain_tokens=1), 512, 512, 511),
        (CacheLaw(16, cap_tokens=100), 1000, 1000, 100),
        (CacheLaw(16, shared_start_tokens=40), 500, 0, 32),
        (CacheLaw(16), 10, 50, 0),
    ],
)
def test_a_law_predicts(law, length, shared, cached):
    assert law.predict(length, shared) == cached


def test_the_formula_that_somebody_fitted_by_hand():
    law = CacheLaw(2144, grains_off=1)
    for length in (1, 2144, 2145, 4288, 4289, 9000, 20_000):
        assert law.full_hit(length) == max(0, (length - 1) // 2144 - 1) * 2144


@pytest.mark.parametrize(
    ("law", "formula"),
    [
        (CacheLaw(32), "cached(L, P) = floor(min(P, L − 1) / 32) · 32"),
        (CacheLaw(1), "cached(L, P) = min(P, L − 1)"),
        (CacheLaw(128, 1024, 0), "cached(L, P) = floor(min(P, L) / 128) · 128, 0 below 1,024"),
        (CacheLaw(528, grains_off=1), "cached(L, P) = floor(min(P, L − 1) / 528) · 528 − 528, at least 0"),
        (CacheLaw(16, cap_tokens=512), "cached(L, P) = floor(min(P, L − 1) / 16) · 16, at most 512"),
        (
            CacheLaw(256, tail_grain_tokens=16),
            "cached(L, P) = min(floor(P / 256) · 256, floor((L − 1) / 16) · 16)",
        ),
    ],
)
def test_a_law_can_be_read(law, formula):
    assert law.formula == formula


@pytest.mark.parametrize("wrong", [{"grain_tokens": 0}, {"grain_tokens": 16, "minimum_tokens": -1}])
def test_a_law_without_sense_is_refused(wrong):
    with pytest.raises(ValueError):
        CacheLaw(**wrong)


def test_a_law_in_words():
    assert CacheLaw.by_token().words == "by the token, the last 1 always computed"
    law = CacheLaw(256, 1024, cap_tokens=4096, tail_grain_tokens=16)
    assert law.words == (
        "in steps of 256 tokens, from 1024 tokens on, at most 4096 tokens, the last 1 always computed,"
        " cut off in steps of 16"
    )


@pytest.mark.parametrize(
    "law", [CacheLaw(1), CacheLaw(256, tail_grain_tokens=16), CacheLaw(128, 1024, cap_tokens=4096)]
)
def test_a_law_comes_back_whole_from_what_a_summary_reports(law):
    """The end of a prompt that is cut off in other steps stands apart in the file, and belongs to the law."""
    results = {
        "law": {name: getattr(law, name) for name in REPORTED} | {"formula": law.formula, "reason": None},
        "detail": {"tail_grain_tokens": law.tail_grain_tokens},
    }
    assert CacheLaw.reported(results) == law
    assert CacheLaw.reported({"law": {"grain_tokens": None, "reason": "evicted"}}) is None
    assert CacheLaw.reported({}) is None
