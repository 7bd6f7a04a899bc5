"""Which function takes which step."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvlab.experiments.context_limit_probe import analysis, endpoint_probe, in_process
from kvlab.experiments.context_limit_probe.bench import bench_of
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.plan import Kind
from kvlab.experiments.context_limit_probe.replay import replay
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.session import Lab

    Step = Callable[[Lab[ContextLimitProbeParams], Trial, int], list[Recorded]]


def take(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Take one step, with its stretch of the memory timeline."""
    bench, kind = bench_of(lab), Kind(trial.planned["kind"])
    if kind not in (Kind.CHILD, Kind.CHILD_CUT):
        bench.wait_for_server()
    with bench.watched(trial, attempt):
        return _STEPS[kind](lab, trial, attempt)


def _replay(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    found = analysis.findings(bench_of(lab).ledger.probes(), lab.params)
    return replay(lab, trial, attempt, found.constants)


_STEPS: "dict[Kind, Step]" = {
    Kind.GROW: endpoint_probe.grow,
    Kind.CUT: endpoint_probe.cut,
    Kind.QUALITY: endpoint_probe.quality,
    Kind.COLD: endpoint_probe.cold,
    Kind.CHILD: in_process.grow_child,
    Kind.CHILD_CUT: in_process.cut_child,
    Kind.REPLAY: _replay,
}
