"""What every run says, whichever experiment it is of: failures, the load of the machine, what one start can show."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvlab import misses
from kvlab.brief import RUN_AGAIN, Brief, KeyFigure
from kvlab.experiment import Experiment
from kvlab.findings import Check, Findings, Verdict, judge
from kvlab.machine_load import BUSY_SHARE
from kvlab.params import Params
from kvlab.taxonomy import ErrorType

if TYPE_CHECKING:
    from kvlab.runs.data import RunData

_ONE_START = (
    "Every interval is over what was measured in {starts} of one server on one machine: another start, or another "
    "machine, may differ by more than the interval shows."
)


def conclude(experiment: Experiment[Any], data: "RunData", params: Params) -> Findings:
    """Return the findings of an experiment, with what is said of every run."""
    found = misses.said(data, experiment.findings(data, params))
    failures = [] if found.judges_failures else _few_failures(data, params)
    return replace(
        found,
        checks=[*found.checks, *failures],
        brief=_brief(found, failures, data),
        remarks=[*found.remarks, *_timing(data), *_load(data)],
        limitations=[*found.limitations, *_starts(data), *_unproven(data), *_unsound(data)],
    )


def _brief(found: Findings, failures: Sequence[Check], data: "RunData") -> Brief | None:
    """Return what is said first; of a run in which nothing was answered, or too much failed, that comes before all."""
    answers, planned = _answers(data), len(data.trials)
    if not answers:
        failed = data.sql.execute("SELECT count(*) FROM failures").fetchone()[0]
        why = f": all {failed:,} requests failed" if failed else ""
        return Brief(
            sentence=f"No answer: nothing was measured{why}.",
            figure=KeyFigure(value=f"0 of {planned:,}", label="planned trials measured"),
            before_all=[*([_most_common(data)] if failed else []), RUN_AGAIN],
        )
    broken = [check for check in failures if check.passed is not True]
    if not broken or found.brief is None or judge(found.checks)[0] is Verdict.INVALID:
        return found.brief
    return found.brief.model_copy(
        update={
            "sentence": f"Not to be relied on: {broken[0].seen} requests failed for good.",
            "figure": KeyFigure(
                value=broken[0].seen, label="requests failed for good", interval=broken[0].asks
            ),
        }
    )


def _answers(data: "RunData") -> int:
    query = "SELECT count(*) FROM responses JOIN requests USING (request_id) WHERE measured = 1"
    return int(data.sql.execute(query).fetchone()[0])


def _few_failures(data: "RunData", params: Params) -> list[Check]:
    """Return the bound on failures: what a server answers between its failures is not what it does as a rule.

    A trial whose failure is what it set out to find is done, and not counted.
    """
    ended, failed = _ended(data)
    if not ended:
        return []
    bound = params.max_failed_fraction
    return [
        Check(
            name="few_failures",
            asks=f"at most {bound:.0%} of the requests failed for good",
            seen=f"{failed:,} of {ended:,}",
            passed=failed <= bound * ended,
            role="proof",
            advice=_most_common(data),
        )
    ]


#: What to do about the most common failure.
_FAILURES = {
    ErrorType.RATE_LIMITED: "send fewer requests at a time, or ask for a higher limit",
    ErrorType.TIMEOUT: "raise REQUEST_TIMEOUT_S, or send shorter prompts",
    ErrorType.OUT_OF_MEMORY: "give the server more memory, or send shorter prompts",
    ErrorType.REFUSED_INPUT: "read the server's own sentence: it refuses what is sent",
    ErrorType.CLIENT_STALLED: "close what else runs on this machine",
    ErrorType.ENGINE_ERROR: "look into the server's log",
}


def _most_common(data: "RunData") -> str:
    """Return what to do about the failures of a run: the advice for the most common one."""
    query = "SELECT error_type FROM failures GROUP BY error_type ORDER BY count(*) DESC, error_type LIMIT 1"
    found = data.sql.execute(query).fetchone()
    if found is None:
        return "look into requests.csv"
    fix = _FAILURES.get(found[0], "read what the server said")
    return f"the most common failure is {found[0]}: {fix} (requests.csv has every one); then go on with `--resume`"


def _ended(data: "RunData") -> tuple[int, int]:
    """Return how many requests have ended, and how many of them without an answer."""
    query = """SELECT count(*), coalesce(sum(failed), 0) FROM (
        SELECT (f.request_id IS NOT NULL AND f.error_type != 'EMPTY_OUTPUT'
                AND (t.status = 'failed' OR r.item IS NOT NULL)) AS failed
        FROM requests r JOIN trials t USING (trial_id) LEFT JOIN failures f USING (request_id)
        WHERE r.measured = 1 AND t.status IN ('done', 'failed')
              AND CASE WHEN r.item IS NULL THEN r.attempt = t.attempts ELSE r.final = 1 END)"""
    ended, failed = data.sql.execute(query).fetchone()
    return int(ended), int(failed)


def _load(data: "RunData") -> list[str]:
    """Say where other processes took the machine while trials were measured."""
    query = """SELECT trial_id, sum(value) AS share FROM observations
        WHERE name IN ('foreign_cpu_share', 'steal_share') AND trial_id IS NOT NULL GROUP BY trial_id, session_id"""
    shares = [float(row[1]) for row in data.sql.execute(query) if row[1] is not None]
    busy = [share for share in shares if share >= BUSY_SHARE]
    if not busy:
        return []
    return [
        f"the machine was busy with other work in {len(busy)} of {len(shares)} trials (it took up to "
        f"{max(busy):.0%} of the processors): their times may be long, and a quiet machine may give others"
    ]


def _timing(data: "RunData") -> list[str]:
    """Say which requests have no times, or odd ones, and why (`Measurement.notes`)."""
    query = """SELECT count(DISTINCT request_id), min(text) FROM observations
        WHERE name = ? AND request_id IN (SELECT request_id FROM requests WHERE measured = 1)"""
    lines = {
        "untimed": "no time to first token and no time per token is known of {n}: {text}",
        "usage_contradiction": "no time per token is known of {n}, whose answer contradicts itself: {text}",
        "reconnects": "sent anew, with a new clock, since the server had closed a kept connection: {n}",
    }
    found = {name: data.sql.execute(query, (name,)).fetchone() for name in lines}
    return [
        line.format(n=f"{n:,} request" if n == 1 else f"{n:,} requests", text=text)
        for name, line in lines.items()
        for n, text in [found[name]]
        if n
    ]


def _starts(data: "RunData") -> list[str]:
    sessions = int(data.sql.execute("SELECT count(*) FROM sessions").fetchone()[0])
    return [_ONE_START.format(starts="one start" if sessions <= 1 else f"{sessions} sessions")]


def _unproven(data: "RunData") -> list[str]:
    facts = data.identity.facts if data.identity else {}
    lacking = [(name, fact.why) for name, fact in facts.items() if fact.holds is not True]
    return [f"Not proven on this server: {name} ({why})." for name, why in lacking]


def _unsound(data: "RunData") -> Sequence[str]:
    return [f"The database is not sound: {line}." for line in data.unsound]
