"""How right an answer is: exact match, token F1, and whether it contains the gold answer.

F1 is that of LongBench's ``qa_f1_score`` and ``qa_f1_zh_score`` (Bai et al. 2024), the maximum over
the gold answers. ``contains`` is RULER's ``string_match_part`` and ``string_match_all`` (Hsieh et
al. 2024). One deviation, as in SQuAD 2.0: two answers of which normalisation leaves nothing agree
(1.0), where LongBench gives 0.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from kvlab.errors import InputError
from kvlab.scoring import normalize
from kvlab.scoring.normalize import Segmenter

AnswerMode = Literal["any", "all"]
#: Part of the scorer's name: raise it when a score of the same text would change.
VERSION = 1


class Score(NamedTuple):
    """Scores of one answer, each between 0 and 1.

    Attributes:
        em: 1.0 where the normalised texts are equal (mode ``all``: where the tokens are, in any order).
        f1: Token F1 against the best gold answer (mode ``all``: against all of them together).
        contains: Mode ``any``: 1.0 where some gold answer stands in the raw text, letter case aside.
            Mode ``all``: the share of the gold answers that do.
        pred_norm: The normalised answer.
        gold_norm: The normalised gold answer of the best F1, then EM; the first of equals.
        scorer: Rules, version and, for Chinese, the word segmenter: scores of different scorers
            do not compare.
    """

    em: float
    f1: float
    contains: float
    pred_norm: str
    gold_norm: str
    scorer: str


def score(
    text: str,
    answers: Sequence[str],
    language: str = "en",
    *,
    answer_mode: AnswerMode = "any",
    first_line_only: bool = False,
    segmenter: Segmenter | None = None,
) -> Score:
    """Score the raw text of an answer; the caller keeps the text.

    Args:
        text: What the model wrote.
        answers: The gold answers.
        language: ``en`` or ``zh``.
        answer_mode: Whether one gold answer suffices, or the text must hold all of them.
        first_line_only: Score the first line that is not empty, as LongBench does for four tasks.
        segmenter: Chinese word segmenter; None takes jieba, or characters without it.

    Raises:
        InputError: There are no gold answers, or the language is another one.
    """
    if not answers:
        raise InputError("answers", list(answers), "is empty; a score needs at least one gold answer")
    shown = first_line(text) if first_line_only else text
    rules = _Rules(language, segmenter)
    golds = list(answers) if answer_mode == "any" else [rules.joiner.join(answers)]
    best = max((rules.compare(shown, gold, ordered=answer_mode == "any") for gold in golds), key=_rank)
    found = [_is_in(gold, shown) for gold in answers]
    contains = float(any(found)) if answer_mode == "any" else sum(found) / len(found)
    return Score(best.em, best.f1, contains, rules.normalize(shown), best.gold_norm, rules.name)


def scorer_name(language: str) -> str:
    """Return the name that `score` gives its scores of a language here and now.

    Raises:
        InputError: The language has no scorer.
    """
    return _Rules(language, None).name


def first_line(text: str) -> str:
    """Return the first line after leading line breaks (LongBench: trec, triviaqa, samsum, lsht)."""
    return text.lstrip("\n").split("\n")[0]


def f1_of_tokens(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of two bags of tokens.

    Both empty: 1.0; one empty, or nothing in common: 0.0.
    """
    if not predicted and not gold:
        return 1.0
    same = (Counter(predicted) & Counter(gold)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


class _Match(NamedTuple):
    em: float
    f1: float
    gold_norm: str


class _Rules:
    """The normalisation of one language."""

    def __init__(self, language: str, segmenter: Segmenter | None) -> None:
        if language == "en":
            self.name, self.joiner = f"longbench-en/{VERSION}", " "
            self.normalize, self.tokens = normalize.english, normalize.english_tokens
        elif language == "zh":
            chosen = segmenter or normalize.default_segmenter()
            self.name, self.joiner = f"longbench-zh/{VERSION} {chosen.name}", "，"
            self.normalize = normalize.chinese
            self.tokens = lambda text: normalize.chinese_tokens(text, chosen)
        else:
            raise InputError("language", language, "has no scorer; en and zh do")

    def compare(self, text: str, gold: str, *, ordered: bool) -> _Match:
        predicted, wanted = self.tokens(text), self.tokens(gold)
        if ordered:
            equal = self.normalize(text) == self.normalize(gold)
        else:
            equal = Counter(predicted) == Counter(wanted)
        return _Match(float(equal), f1_of_tokens(predicted, wanted), self.normalize(gold))


def _rank(match: _Match) -> tuple[float, float]:
    return match.f1, match.em


def _is_in(gold: str, text: str) -> bool:
    gold, text = gold.strip().lower(), text.strip().lower()
    return gold in text if gold else not text
