"""One prefix: cold, a wait, the same prompt again."""

import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.counter import Counter, Prompt
from kvlab.endpoints.openai import Call
from kvlab.experiment import Measuring
from kvlab.experiments.prefix_lifetime.params import LifetimeParams
from kvlab.prompts import exact, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.session import Session

_NAMES = exact.Names("prompt_tokens", "the document (kvlab.prompts.manual)")


def measure(session: "Session[LifetimeParams]", trial: Trial) -> Measuring:
    """Ask a prompt, wait as planned, and ask it again. The warm-up is one request."""
    warm_up, foreign = trial is session.plan.warm_up, int(trial.planned["foreign_prompts"])
    # All prompts are made first: what it takes to make them must not lengthen the wait.
    marks = [_mark(session, trial, n) for n in range(1 + foreign)]
    prompts = [_prompt(session.params, session.counter, mark) for mark in marks]

    def ask(arm: str, n: int = 0) -> Recorded:
        call = Call(
            request_id=session.request_id(trial, arm),
            arm=arm,
            prompt=prompts[n],
            decoding=_decoding(session.params),
            salt=marks[n],
            attempt=session.attempt,
            target_tokens=session.params.prompt_tokens,
            shared_tokens=session.shared_tokens,
            measured=not warm_up,
            calibrates=arm != "again",
        )
        answer: Recorded = session.engine.ask(call)
        return answer

    cold = ask("cold")
    yield cold
    if warm_up:
        return cold.label.reason
    passed = list[Recorded]()
    for n in range(1, 1 + foreign):
        passed.append(ask(f"foreign_{n:04d}", n))  # an arm occurs once in an attempt
        yield passed[-1]
    time.sleep(trial.planned["idle_s"])
    again = ask("again")
    yield again
    waited_s, tokens = _waited_s(cold, again), _tokens(passed)
    for name, value in (("waited_s", waited_s), ("foreign_tokens", tokens)):
        why = "the server does not say" if value is None else None
        session.database.observe(trial.trial_id, name, value, text=why)
    of = again.label.predicted_tokens
    return f"after {waited_s or 0:.1f} s and {tokens} foreign tokens {again.state}: {again.label.cached_tokens}/{of} cached"


def _waited_s(cold: Recorded, again: Recorded) -> float | None:
    """Return the time from the end of the cold answer to the sending of the same prompt."""
    done_ns = cold.measurement.stamps.done_ns
    return None if done_ns is None else (again.measurement.stamps.sent_ns - done_ns) / 1e9


def _tokens(passed: list[Recorded]) -> int | None:
    """Return how many prompt tokens the server counted of the foreign requests; ``None``: it does not count."""
    counts = [row.evidence.prompt_tokens for row in passed]
    return None if None in counts else sum(count for count in counts if count is not None)


def _mark(session: "Session[LifetimeParams]", trial: Trial, n: int) -> str:
    return manual.marker(session.run.isolation_id, f"{session.tag(trial)}.{n}")


def _decoding(params: LifetimeParams) -> Mapping[str, Any]:
    return {"max_tokens": params.max_tokens, "temperature": 0.0}


def _prompt(params: LifetimeParams, counter: Counter, mark: str) -> Prompt:
    return exact.fit(
        lambda cut: _build(mark, cut), _text(params, mark), params.prompt_tokens, counter, _NAMES
    ).prompt


def calibrate(params: LifetimeParams, counter: Counter) -> None:
    """Let a server that cannot tokenize read the document, under a marker that nothing else uses."""
    mark = secrets.token_hex(8)
    exact.calibrate(
        lambda cut: _build(mark, cut), _text(params, mark), [params.prompt_tokens], counter, _NAMES
    )


def samples() -> tuple[Prompt, Prompt]:
    """Return two prompts that differ only in their marker."""
    return _build("0123456789abcdef", "Section 1."), _build("fedcba9876543210", "Section 1.")


def _text(params: LifetimeParams, mark: str) -> str:
    """Return a document that is long enough: a section has more than sixteen tokens."""
    return manual.manual(17, 2 + params.prompt_tokens // 16, mark)


def _build(mark: str, cut: str) -> Prompt:
    return manual.build(mark, cut, api="chat", question=manual.QUESTION, marker_role="system")
