"""The trimming check: a long conversation under the recommended constants, turn by turn.

After each answer the history grows by the scripted exchange, whatever the model said, so that all
intervals are measured on the same conversation. Every ``interval`` exchanges, or when the next
prompt would exceed CONTEXT_TRIM_THRESHOLD, everything but the system message and the last
KEEP_MESSAGES messages is dropped. What follows the system message is then at another place than in
the cache: it is computed anew, and the cached tokens show that.
"""

from typing import TYPE_CHECKING

from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.bench import bench_of
from kvlab.experiments.context_limit_probe.constants import Constant, value
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import RETRYABLE

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
    from kvlab.session import Lab

TURN, TRIM = "turn", "trim"


def replay(
    lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int, constants: list[Constant]
) -> list[Recorded]:
    """Replay one conversation at one interval; stops at the first failure, which is then its result.

    A failure that another attempt may mend is a result once there is no attempt left.
    """
    if not constants:
        return []
    bench, params = bench_of(lab), lab.params
    bench.tries[trial.trial_id] += 1
    interval = interval_of(constants, float(trial.planned["factor"]))
    keep, threshold = value(constants, "KEEP_MESSAGES"), value(constants, "CONTEXT_TRIM_THRESHOLD")
    mark = manual.marker(lab.run.isolation_id, lab.tag(trial, attempt))
    head = material.system(mark, params.needles, params.text_seed)
    messages, rows, since = list[material.Message](), list[Recorded](), 0
    for turn in range(params.replay_exchanges):
        ask, reply = material.exchange(params.growth, params.text_seed, turn)
        prompt = bench.prompt([head, *messages, ask])
        trimmed = False
        if len(messages) > keep and (since >= interval or bench.length(prompt) > threshold):
            messages, since, trimmed = messages[-keep:], 0, True
            prompt = bench.prompt([head, *messages, ask])
        arm = f"{TRIM if trimmed else TURN}-{turn + 1:05d}"
        rows.append(bench.ask(trial, attempt, arm, prompt, params.replay_tokens, bench.length(prompt)))
        if (failure := rows[-1].measurement.failure) is not None and not rows[-1].was_read:
            if failure.error_type not in RETRYABLE or bench.tries[trial.trial_id] >= params.max_attempts:
                bench.results.add(rows[-1].request_id)
            return rows
        messages, since = [*messages, ask, reply], since + 1
        if (turn + 1) % 25 == 0:
            print(f"{trial.trial_id}: {turn + 1} of {params.replay_exchanges} turns", flush=True)
    return rows


def interval_of(constants: list[Constant], factor: float) -> int:
    """Return the interval that a replay keeps, in exchanges."""
    return max(1, round(factor * value(constants, "TRIM_INTERVAL")))
