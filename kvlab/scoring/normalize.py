"""Normalisation and tokens of answers, as LongBench's ``metrics.py`` (Bai et al. 2024) defines them."""

import re
import string
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
# Full-width ASCII signs, CJK brackets and marks, dashes and quotation marks of general punctuation.
_CJK_SIGNS = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】"
    "〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_ALL_PUNCTUATION = _ASCII_PUNCTUATION | dict.fromkeys(map(ord, _CJK_SIGNS))


class Segmenter(NamedTuple):
    """Cuts Chinese text into words; ``name`` says how, with the version, and is stored with a score."""

    name: str
    cut: Callable[[str], list[str]]


def english(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles (a, an, the), single spaces."""
    bare = text.lower().translate(_ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def chinese(text: str) -> str:
    """Lower case, no ASCII or Chinese punctuation, no white space at all."""
    return "".join(text.lower().translate(_ALL_PUNCTUATION).split())


def english_tokens(text: str) -> list[str]:
    """Return the words of the normalised text."""
    return english(text).split()


def chinese_tokens(text: str, segmenter: Segmenter) -> list[str]:
    """Cut the raw text into words, normalise each, and drop those of which nothing is left."""
    return [token for token in map(chinese, segmenter.cut(text)) if token]


@cache
def default_segmenter() -> Segmenter:
    """Return jieba, which LongBench uses, or single characters where jieba is not installed."""
    try:
        import jieba
    except ImportError:
        return characters()
    jieba.setLogLevel("WARNING")
    return Segmenter(f"jieba-{version('jieba')}", lambda text: list(jieba.cut(text, cut_all=False)))


def characters() -> Segmenter:
    """Return the segmenter that takes every character for a word."""
    return Segmenter("characters", list)
