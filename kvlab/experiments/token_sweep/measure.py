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
_NAMES = exact.Names("token_targets", "manual_sections")


def pair(session: "Session[TokenSweepParams]", trial: Trial) -> Measuring:
    """Ask a prompt under a fresh marker, then the same tokens again; the warm-up asks only once."""
    params, target = session.params, int(trial.planned["target_tokens"])
    mark = manual.marker(session.run.isolation_id, session.tag(trial))
    made = prompt(params, session.counter, target, mark)
    warm_up = trial is session.plan.warm_up
    lines = []
    for arm in (trial.point,) if warm_up else ARMS:
        row = session.engine.ask(
            Call(
                request_id=session.request_id(trial, arm),
                arm=arm,
                prompt=made,
                decoding={"max_tokens": params.max_tokens, "temperature": params.temperature},
                salt=mark,
                attempt=session.attempt,
                target_tokens=target,
                shared_tokens=session.shared_tokens,
                measured=not warm_up,
                calibrates=arm != "hit",  # some servers leave cached tokens out of their count
            )
        )
        yield row
        lines.append(f"{arm} {_ttft(row)}, {_cached(row)}")
    return "; ".join(lines)


def prompt(params: TokenSweepParams, counter: Counter, target_tokens: int, mark: str) -> Prompt:
    """Return a prompt of a length, with a marker in its first block."""
    text = manual.manual(params.manual_seed, params.manual_sections, mark)
    return exact.fit(lambda cut: _build(params, mark, cut), text, target_tokens, counter, _NAMES).prompt


def calibrate(params: TokenSweepParams, counter: Counter) -> None:
    """Let a server that cannot tokenize read the document, under a marker that nothing else uses."""
    mark = secrets.token_hex(8)
    text = manual.manual(params.manual_seed, params.manual_sections, mark)
    exact.calibrate(lambda cut: _build(params, mark, cut), text, params.token_targets, counter, _NAMES)


def samples(params: TokenSweepParams) -> tuple[Prompt, Prompt]:
    """Return two short prompts of different markers."""
    first, second = (manual.marker("sample", tag) for tag in "ab")
    return _build(params, first, "Section 1."), _build(params, second, "Section 1.")


def _build(params: TokenSweepParams, mark: str, cut: str) -> Prompt:
    return manual.build(mark, cut, api=params.api, question=manual.QUESTION, marker_role=params.marker_role)


def _ttft(row: Recorded) -> str:
    ttft_ms = row.measurement.stamps.ttft_ms
    return "no TTFT" if ttft_ms is None else f"{ttft_ms:.0f} ms"


def _cached(row: Recorded) -> str:
    """Return the evidence, and the label where it is not what the arm was meant to be."""
    if row.state is CacheState.UNVERIFIED:
        return f"unverified ({row.label.reason})"
    of = "" if row.label.predicted_tokens is None else f"/{row.label.predicted_tokens}"
    surprise = "" if row.state == row.arm else f" ({row.state}!)"
    return f"{row.label.cached_tokens}{of} cached{surprise}"
