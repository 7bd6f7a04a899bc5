"""One pair: the same tokens asked twice, cold then hit."""

import secrets
from typing import TYPE_CHECKING

from kvlab.endpoints.counter import Counter, Prompt
from kvlab.endpoints.openai import Call
from kvlab.evidence import CacheState
from kvlab.experiment import Measuring
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.prompts import exact, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.session import Session

ARMS = ("cold", "hit")
CONTROL_ARMS = ("control_first", "control_second")
_NAMES = exact.Names("token_targets", "manual_sections")


def pair(session: "Session[TokenSweepParams]", trial: Trial) -> Measuring:
    """Ask two requests: the same tokens, cold then hit; of a control pair, two prompts that are both cold.

    The warm-up is one request.
    """
    params, target = session.params, int(trial.planned["target_tokens"])
    warm_up, control = trial is session.plan.warm_up, bool(trial.planned.get("control"))
    marks = [manual.marker(session.run.isolation_id, f"{session.tag(trial)}{n or ''}") for n in range(2)]
    arms = (trial.point,) if warm_up else CONTROL_ARMS if control else ARMS
    made = [prompt(params, session.counter, target, mark) for mark in marks[: 2 if control else 1]]
    lines = []
    for n, arm in enumerate(arms):
        row = session.engine.ask(
            Call(
                request_id=session.request_id(trial, arm),
                arm=arm,
                prompt=made[n if control else 0],
                decoding={"max_tokens": params.max_tokens, "temperature": params.temperature},
                salt=marks[n if control else 0],
                attempt=session.attempt,
                target_tokens=target,
                shared_tokens=session.shared_tokens,
                measured=not warm_up,
                calibrates=arm != "hit",  # some servers leave cached tokens out of their count
            )
        )
        yield row
        lines.append(f"{arm} {_ttft(row)}, {_cached(row, 'cold' if control or warm_up else arm)}")
    return "; ".join(lines)


def prompt(params: TokenSweepParams, counter: Counter, target_tokens: int, mark: str) -> Prompt:
    """Return a prompt of a length, with a marker in its first block."""
    text = manual.manual(params.manual_seed, params.manual_sections, mark)
    return exact.fit(lambda cut: _build(params, mark, cut), text, target_tokens, counter, _NAMES).prompt


def calibrate(params: TokenSweepParams, counter: Counter) -> None:
    """Let a server that cannot tokenize read the document, each time under a marker that nothing else uses.

    Some servers leave cached tokens out of their count of a prompt.
    """
    text = manual.manual(params.manual_seed, params.manual_sections, secrets.token_hex(8))
    exact.calibrate(
        lambda cut: _build(params, secrets.token_hex(8), cut), text, params.token_targets, counter, _NAMES
    )


def samples(params: TokenSweepParams) -> tuple[Prompt, Prompt]:
    """Return two short prompts of different markers."""
    first, second = (manual.marker("sample", tag) for tag in "ab")
    return _build(params, first, "Section 1."), _build(params, second, "Section 1.")


def _build(params: TokenSweepParams, mark: str, cut: str) -> Prompt:
    return manual.build(mark, cut, api=params.api, question=manual.QUESTION, marker_role=params.marker_role)


def _ttft(row: Recorded) -> str:
    ttft_ms = row.measurement.stamps.ttft_ms
    return "no TTFT" if ttft_ms is None else f"{ttft_ms:.0f} ms"


def _cached(row: Recorded, meant: str) -> str:
    """Return the evidence, and the label where it is not what the arm was meant to be."""
    if row.state is CacheState.UNVERIFIED:
        return f"unverified ({row.label.reason})"
    of = "" if row.label.predicted_tokens is None else f"/{row.label.predicted_tokens}"
    surprise = "" if row.state == meant else f" ({row.state}!)"
    return f"{row.label.cached_tokens}{of} cached{surprise}"
