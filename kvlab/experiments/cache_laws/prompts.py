"""From the description of a prompt to its tokens: exactly so long, sharing exactly so many tokens.

Where a server takes token ids, a prompt is a list of them, with nothing around it. Elsewhere it is a chat
of words that are one token each; the chat template stands around them. Whether lengths came out as meant
is checked on every answer by the learner: if not, it claims nothing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kvlab.endpoints.counter import CalibratedCounter, Counter, Prompt, ServerCounter
from kvlab.endpoints.openai import OpenAICompat
from kvlab.errors import KvlabError
from kvlab.laws.probe import PromptSpec
from kvlab.prompts import manual

#: Common words, one token each in the large vocabularies; all short, none the start of another one's token.
_TEXT = (
    "time year way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work number night point home water room mother area "
    "money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city name team minute idea body back parent face level office "
    "door health person art war history party result change morning reason research girl guy moment air teacher "
    "force order foot boy age policy music market sense nation plan college interest death course someone effect "
    "use class control field development role effort rate heart drug show leader light voice wife police mind "
    "price report decision son view town road arm difference value building action season society tax director "
    "position player record paper space ground form event matter center couple site project star table need court "
    "oil situation cost figure street image phone data cover quality picture practice piece land product doctor "
    "wall patient worker news test movie north love step summer "
    "add ask ball bank base bed bird bit black blue board boat box bread bring brown call card care cat choose "
    "clear close cold come cook corn cut dance dark deep dog draw dream dress drink drive dry earth east eat egg "
    "fall farm fast feel few fill find fine fire fish floor fly follow food free full garden give glass go gold "
    "good grass great green grow hair half hard hat hear hill hit hold horse hot ice iron island keep key king "
    "know lake large late lead learn leave left leg let list little live long look low make map mark mean meat "
    "meet metal mile milk mountain mouth move near neck new nose note ocean old open page paint pass past pay "
    "plain plant play poor post press pull push put race rain reach read red rest rich ride ring rise river rock "
    "roll rose round row rule run safe sail salt sand save say sea seat see seed sell send set shape share sharp "
    "ship shop short sign sing sister sit size skin sky sleep slow small smell smile snow soft soil song soon "
    "sound south speak speed spring stand start stay steel stone stop storm strong sugar sun sure sweet swim tail "
    "take talk tall teach tell thick thin think throw tie tiny tire tone tool top touch track trade train tree "
    "trip true try turn type visit wait walk want warm wash watch wave wear wheel white wide wild win wind window "
    "winter wish wood write yard yellow young"
)
#: Longer words are several tokens in many vocabularies.
_WORDS = [word for word in dict.fromkeys(_TEXT.split()) if len(word) <= 7]
_FEWEST = 64
#: Counting words costs requests where nothing else counts.
_MOST_COUNTS = 60


class Maker(Protocol):
    """Makes prompts.

    Attributes:
        exact: Whether length and shared tokens are exact by construction.
        how: How prompts are made, in a sentence for the report.
        known_start: Leading tokens that all prompts share, where that is known.
    """

    @property
    def exact(self) -> bool: ...  # noqa: D102 - see above

    @property
    def how(self) -> str: ...  # noqa: D102

    @property
    def known_start(self) -> int | None: ...  # noqa: D102

    def __call__(self, spec: PromptSpec, life: str, variant: int = 0) -> Prompt:
        """Return the prompt of a description.

        Args:
            spec: What is asked for.
            life: What no other set of prompts has; two lives share no first token, but by chance.
            variant: Another tail for the same description, where its first one may be in the cache already.

        Raises:
            ValueError: There are not enough first tokens to tell so many prompts apart.
        """
        ...


@dataclass(frozen=True)
class TokenPrompts:
    """Token ids in ``[low, high)``: bases from the lower half, tails from the upper one."""

    low: int
    high: int
    exact: bool = True
    known_start: int | None = 0
    how: str = (
        "prompts are token ids: their lengths and what they share are exact, and no template is around them"
    )

    def __call__(self, spec: PromptSpec, life: str, variant: int = 0) -> Prompt:
        """Return a prompt of token ids."""
        half = (self.high - self.low) // 2
        tokens = _places(spec, life, variant, half)
        return {"prompt": [self.low + place + half * upper for place, upper in tokens]}


@dataclass(frozen=True)
class WordPrompts:
    """A chat of words that are one token each: bases from one half of the words, tails from the other."""

    words: tuple[str, ...]
    exact: bool = False
    known_start: int | None = None
    how: str = (
        "prompts are chats of words of one token each: their lengths are checked against the server's count, "
        "what they share is as long as the words say, and the template's shared start is found by evidence"
    )

    def __call__(self, spec: PromptSpec, life: str, variant: int = 0) -> Prompt:
        """Return a chat."""
        half = len(self.words) // 2
        chosen = [self.words[place + half * upper] for place, upper in _places(spec, life, variant, half)]
        return {"messages": [{"role": "user", "content": " ".join(chosen)}]}


def _places(spec: PromptSpec, life: str, variant: int, half: int) -> list[tuple[int, bool]]:
    """Return each token as its place in a half of the vocabulary, and whether it is the upper half."""
    tail = spec.tail if not variant else half - 1 - (4 * spec.tail + variant)
    if not 0 <= tail < half or spec.base >= half or variant > 3:
        raise ValueError(
            f"{2 * half} different tokens cannot tell base {spec.base} or tail {spec.tail} apart"
        )
    base = _stream(f"{life} base", spec.base, spec.shared_tokens, half)
    rest = _stream(f"{life} tail", tail, spec.own_tokens - spec.shared_tokens, half)
    return [(place, False) for place in base] + [(place, True) for place in rest]


def _stream(kind: str, number: int, length: int, half: int) -> list[int]:
    """Return the places of a text; its first one is no other number's of this kind."""
    if length <= 0:
        return []
    first = (random.Random(kind).randrange(half) + number) % half  # noqa: S311 - text, not a secret
    draw = random.Random(f"{kind} {number}")  # noqa: S311
    return [first, *(int(draw.random() * half) for _ in range(length - 1))]


def maker(engine: OpenAICompat) -> Maker:
    """Return what makes prompts for this server.

    Raises:
        KvlabError: Too few words are one token each there.
    """
    counter = engine.counter
    if isinstance(counter, ServerCounter) and engine.identity.can("token_ids"):
        known = counter.tokens({"prompt": " ".join(_WORDS), "add_special_tokens": False})
        # Ids up to the largest that its tokenizer gave exist; the first thousand may be bytes and special ones.
        return TokenPrompts(min(1000, max(known) // 4), max(known))
    words = one_token_words(_WORDS, _counts(counter))
    if len(words) < _FEWEST:
        raise KvlabError(
            f"only {len(words)} of {len(_WORDS)} common words are one token each on this server: "
            "prompts of controlled length cannot be written as text"
        )
    return WordPrompts(tuple(words))


def _counts(counter: Counter) -> Callable[[Prompt], int | None]:
    """Return what counts a prompt as the server does: its page, or else the usage of a request."""
    if isinstance(counter, CalibratedCounter):
        ask = counter.ask
        return lambda prompt: None if ask is None else ask(prompt)[0]
    return counter


def one_token_words(words: Sequence[str], count: Callable[[Prompt], int | None]) -> list[str]:
    """Return the words that add one token each to a chat, found by halving.

    Args:
        words: To choose from.
        count: Returns the tokens of a prompt, or ``None`` where the server does not say.
    """
    lone, left = count(_chat(words[:1])), _MOST_COUNTS

    def kept(part: list[str]) -> list[str]:
        nonlocal left
        left -= 1
        found = count(_chat([words[0], *part])) if left > 0 else None
        if found is not None and lone is not None and found - lone == len(part):
            return part
        if len(part) == 1 or found is None:
            return []
        middle = len(part) // 2
        return kept(part[:middle]) + kept(part[middle:])

    return kept(list(words))


def _chat(words: Sequence[str]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": " ".join(words)}]}


def template_hash() -> str:
    """Return a hash of everything that makes a prompt: it names the template in a manifest."""
    spec = PromptSpec(12, 6, 1, 2)
    made = [TokenPrompts(1000, 31000)(spec, "x"), WordPrompts(tuple(_WORDS))(spec, "x")]
    return manual.digest(made)
