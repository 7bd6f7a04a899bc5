"""A trial is a part: its learner asks, one request at a time, and each is stored before the next."""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kvlab.endpoints import learned
from kvlab.endpoints.openai import Call
from kvlab.endpoints.proof import nothing_reused
from kvlab.errors import KvlabError
from kvlab.evidence import CacheState, classify, usage_evidence
from kvlab.experiment import Measuring, UnfinishedError
from kvlab.experiments.cache_laws import parts
from kvlab.experiments.cache_laws.log import Log, NewLifeError, stored_outcome
from kvlab.experiments.cache_laws.parts import Got, LimitError, Part, Wanted
from kvlab.experiments.cache_laws.turns import in_turns
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Answer
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import REFUSES_ALL, RETRYABLE
from kvlab.timing.request import Failure

if TYPE_CHECKING:
    from kvlab.experiments.cache_laws.params import CacheLawsParams
    from kvlab.session import Session

_LIVES = 4


def measure(session: "Session[CacheLawsParams]", trial: Trial) -> Measuring:
    """Find out one part; the line says what."""
    log = Log.read(session, trial)
    known = parts.known(session, stored_outcome(session, "law"))
    if trial.trial_id != "law" and log.number:
        log.begin()  # what the cache holds now, and how long it has, no stored answer says
    began = time.monotonic()
    for _ in range(_LIVES):
        asking = _Asking(session, log, began + session.params.max_part_s)
        part = Part(session.params, known, session.state.known_start, session.identity)
        learner = parts.LEARNERS[trial.trial_id]
        try:
            outcome = yield from in_turns(lambda line: learner(part, line), asking.answer)  # noqa: B023 - used at once
        except NewLifeError:
            log.begin()
            session.note(f"{trial.trial_id}: begins again with other tokens, as a lost prompt may be cached")
            continue
        except (LimitError, ValueError) as error:
            outcome = {"reason": str(error)}
        outcome |= asking.costs | {"kv_events": session.state.watch.account()}
        log.ended(outcome)
        if trial.trial_id == "law" and outcome.get("law") is not None:
            _remember(session, outcome)
        return parts.line(trial.trial_id, outcome)
    outcome = {"reason": f"requests were lost in each of {_LIVES} beginnings", **asking.costs}
    log.ended(outcome)
    return str(outcome["reason"])


def _remember(session: "Session[CacheLawsParams]", outcome: Mapping[str, Any]) -> None:
    """Keep the law for later runs on this server, whichever experiment they are of."""
    names = ("predicted", "held_out", "held_to_tokens")
    grounds = {name: outcome[name] for name in names} | {"run": session.run.experiment_id}
    if (path := learned.remember(session.identity, CacheLaw(**outcome["law"]), grounds)) is not None:
        session.note(f"law: kept in {path}; later runs on this server hold their labels against it")


@dataclass
class _Asking:
    """Answers a learner's questions: from what is stored, then from the server."""

    session: "Session[CacheLawsParams]"
    log: Log
    until: float
    replayed: int = 0
    costs: dict[str, int] = field(default_factory=lambda: {"requests": 0, "prompt_tokens": 0})

    def answer(self, wanted: Wanted) -> Generator[Recorded, None, Got | BaseException]:
        """Answer one question; what ends the part is returned, for the learner to know."""
        log = self.log
        if self.replayed < len(log.answers):
            spec, answer = log.answers[self.replayed]
            if spec != wanted.spec:
                raise NewLifeError  # another version of the learner asked them
            self.replayed += 1
            return self._got(Got(answer))
        if time.monotonic() > self.until:
            return LimitError(f"the limit of {self.session.params.max_part_s:g} s was reached (max_part_s)")
        try:
            got = yield from self._ask(wanted)
        except ValueError as error:
            return error
        self.replayed += 1
        return self._got(got)

    def _got(self, got: Got) -> Got:
        self.costs["requests"] += 1
        self.costs["prompt_tokens"] += got.answer.prompt_tokens or 0
        return got

    def _ask(self, wanted: Wanted) -> Generator[Recorded, None, Got]:
        session, log, spec = self.session, self.log, wanted.spec
        began = time.monotonic()
        for tries in range(1, 1000):
            variant = log.variant(spec)
            prompt = session.state.maker(spec, log.tag, variant)
            # Hexadecimal digits: vLLM refuses a salt with a slash.
            salt = None if spec.tenant is None else manual.marker(log.tag, spec.tenant)
            arm = f"probe-{log.number:04d}" + (f".{tries}" if tries > 1 else "")
            request_id = session.request_id(log.trial, arm)
            held = session.state.watch.held(prompt, salt)
            log.sent(spec, request_id)
            row = session.engine.ask(
                Call(
                    request_id=request_id,
                    arm=arm,
                    prompt=prompt,
                    decoding={"max_tokens": wanted.max_tokens, "temperature": 0},
                    salt=salt,
                    attempt=session.attempt,
                    target_tokens=spec.own_tokens if session.state.exact else None,
                )
            )
            failure = None if row.was_read else row.measurement.failure
            pause = None if failure is None else session.pause_s(failure, tries, began)
            # A server that is away answers nothing for good: the run can go on when it is back.
            away = pause is None and failure is not None and failure.error_type in RETRYABLE
            yield replace(row, item=log.number, final=pause is None and not away, expected=True)
            if failure is not None and away:
                reason = " ".join(failure.message.split())[:200]
                raise UnfinishedError(f"{failure.error_type}: {reason}; --resume goes on from here")
            if pause is None:
                answer = _answer(row, failure, nothing_reused(session.identity))
                log.answered(spec, variant, answer, row, held)
                _refuse(failure)
                generation = row.measurement.generation
                return Got(answer, generation.text if generation is not None else "")
            time.sleep(pause)
        raise KvlabError("a request failed a thousand times")


def session_trial(log: Log) -> Trial:
    """Return the trial whose probes these are."""
    return log.trial


def _answer(row: Recorded, failure: Failure | None, doubt: str | None) -> Answer:
    """Return what an answer says of the cache, whatever law labels are held against.

    Args:
        row: The request.
        failure: Why there is no answer.
        doubt: Why 0 cached tokens prove nothing for other experiments: the first look at this server saw no
            reuse. A minimum may be why, and the learner itself claims nothing until it has seen some.
    """
    if failure is not None:
        reason = " ".join(failure.message.split())[:200]
        return Answer(None, None, note=f"a request failed: {failure.error_type}: {reason}")
    evidence = row.evidence
    if row.measurement.generation is None:  # an answer without text has its usage all the same
        evidence = replace(evidence, usage_tokens=usage_evidence(row.measurement.usage)[1])
    if doubt is not None and evidence.contradiction == doubt:
        evidence = replace(evidence, contradiction=None)
    label = classify(evidence, None)
    cached = None if label.state is CacheState.UNVERIFIED else label.cached_tokens
    stamps = row.measurement.stamps
    return Answer(
        evidence.prompt_tokens,
        cached,
        ttft_ms=stamps.ttft_ms,
        note=label.reason if cached is None else None,
    )


def _refuse(failure: Failure | None) -> None:
    """End the run where every other request would fail, too.

    Raises:
        KvlabError: The key, the account, the address or the model is refused.
    """
    if failure is not None and failure.http_status in REFUSES_ALL:
        reason = " ".join(failure.message.split())[:200]
        raise KvlabError(f"the server refuses requests (HTTP {failure.http_status}): {reason}")
