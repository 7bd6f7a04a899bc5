"""The scorer against LongBench's algorithm, written down here a second time from its description."""

import itertools
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.errors import InputError
from kvlab.scoring import normalize, score
from kvlab.scoring.metrics import f1_of_tokens
from tests.compression.datasets.real import DATA, answers_of, needs_data

# Which marks LongBench strips from Chinese, by code point. Two that one would expect are not among
# them: the opening 《 (300A) and the full-width full stop (FF0E).
CJK = {
    chr(code)
    for first, last in [
        (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64),
        (0x3001, 0x3003), (0x300B, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F),
        (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0xFE4F, 0xFE4F),
    ]
    for code in range(first, last + 1)
}  # fmt: skip


def words_en(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    # An article is one where a word boundary is on either side: letters, digits and _ belong to words.
    out, word = [], ""
    for c in kept + " ":
        if c.isalnum() or c == "_":
            word += c
            continue
        out.append(" " if word in {"a", "an", "the"} else word)
        out.append(c)
        word = ""
    return "".join(out).split()


def words_zh(text, cut):
    stripped = (
        "".join(c for c in w.lower() if c not in CJK and c not in string.punctuation) for w in cut(text)
    )
    return [w for w in ("".join(w.split()) for w in stripped) if w]


def overlap_f1(predicted, gold):
    """2 |common| / (|predicted| + |gold|), taking common words away one by one; 0 where there are none."""
    left, common = list(gold), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


EN = ("The", "a", "an", "anthem", "Theory", "river", "Rhine", "1,000", "U.S.", "don't", "well-known", "_x_",
      "1998", "café", "the-end", "A.", "(the)", "“a”", "Ångström", "\n", "\t", "...", "a1", "of")  # fmt: skip
ZH = ("厦门", "大学", "。", "，", "《红楼梦》", "2020年", "北京", "市", "的", "“是”", "ABC", "、", "人工智能", "（一）", " ",
      "研究", "生命", "起源", "…", "Ａ", "．", "中国科学院", "！", "我们", "10.5%")  # fmt: skip


def pairs(vocabulary, joiner, number):
    draw = random.Random(7)
    for _ in range(number):
        gold = [draw.choice(vocabulary) for _ in range(draw.randrange(0, 7))]
        predicted = [w for w in gold if draw.random() < 0.7]
        predicted += [draw.choice(vocabulary) for _ in range(draw.randrange(0, 5))]
        if draw.random() < 0.5:
            draw.shuffle(predicted)
        yield joiner.join(predicted), [joiner.join(gold), joiner.join(draw.sample(vocabulary, 2))]


def check(language, vocabulary, joiner, words, segmenter=None, more=()):
    seen = set()
    for predicted, golds in [*pairs(vocabulary, joiner, 800), *more]:
        tokens = words(predicted), [words(gold) for gold in golds]
        # Nothing left on either side: 1 here, 0 there, as documented.
        want = max(1.0 if not tokens[0] and not gold else overlap_f1(tokens[0], gold) for gold in tokens[1])
        got = score(predicted, golds, language, segmenter=segmenter)
        assert got.f1 == pytest.approx(want, abs=1e-12), (predicted, golds)
        seen.add((predicted, tuple(golds)))
    assert len(seen) >= 500
    return got


def test_english_equals_longbench_on_generated_pairs():
    assert check("en", EN, " ", words_en).scorer == "longbench-en/1"


def test_chinese_by_characters_equals_longbench_with_a_character_segmenter():
    done = check("zh", ZH, "", lambda text: words_zh(text, list), normalize.characters())
    assert done.scorer == "longbench-zh/1 characters"


def test_chinese_by_jieba_equals_longbench():
    jieba = pytest.importorskip("jieba")
    answers = answers_of("multifieldqa_zh") if DATA else []
    more = [(a + b, [b, a]) for (a, *_), (b, *_) in itertools.pairwise(answers)]
    done = check("zh", ZH, "", lambda text: words_zh(text, lambda t: jieba.lcut(t)), more=more)
    assert done.scorer.startswith("longbench-zh/1 jieba-")


@needs_data
def test_real_gold_answers_score_one_against_themselves():
    for answers in answers_of("multifieldqa_zh"):
        assert score(answers[0], answers, "zh").f1 == 1


@pytest.mark.parametrize(
    ("text", "gold", "em", "f1"),
    [("", "", 1, 1), ("the", "", 1, 1), ("", "x", 0, 0), ("x", "", 0, 0), ("The Rhine.", "rhine", 1, 1)],
)
def test_edges(text, gold, em, f1):
    assert score(text, [gold])[:2] == (em, f1)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_f1_is_symmetric_and_bounded(a, b):
    assert f1_of_tokens(a, b) == pytest.approx(f1_of_tokens(b, a))
    assert 0 <= f1_of_tokens(a, b) <= 1
    assert (f1_of_tokens(a, b) == 1) == (sorted(a) == sorted(b))


def test_the_best_gold_answer_counts_and_is_named():
    got = score("the river Rhine", ["Danube", "Rhine"])
    assert (got.em, got.f1, got.contains, got.gold_norm) == (0, pytest.approx(2 / 3), 1, "rhine")


def test_all_answers_are_needed_where_the_mode_says_so():
    golds = ["111", "222", "333", "444"]
    some = score("222, 111 and 999", golds, answer_mode="all")
    assert some.contains == 0.5
    assert some.em == 0
    everything = score("444, 333, 222, 111.", golds, answer_mode="all")
    assert everything[:3] == (1, 1, 1)


def test_only_the_first_line_is_scored_where_the_task_says_so():
    assert score("\n\nParis\nQuestion: more", ["paris"], first_line_only=True).em == 1
    assert score("\n\nParis\nQuestion: more", ["paris"]).em == 0


def test_no_gold_answer_and_unknown_languages_are_refused():
    with pytest.raises(InputError, match="answers"):
        score("x", [])
    with pytest.raises(InputError, match="language: 'fr'"):
        score("x", ["x"], "fr")
