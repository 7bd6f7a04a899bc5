"""``kvlab ab A.yaml B.yaml``: opens two configurations, measures them in turns, and writes one comparison."""

import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kvlab import paths
from kvlab.comparison import interleave, refusals, sides, writing, yaml_file
from kvlab.comparison.comparison import CONFIDENCE, ONE_START, SEED, Comparison, MetricResult, Named
from kvlab.comparison.differences import differences
from kvlab.comparison.values import pairs, table
from kvlab.errors import InputError, KvlabError
from kvlab.runs import status
from kvlab.runs.folder import check_outputs, new_folder
from kvlab.stats.anytime import METHOD, Bets
from kvlab.stats.ratios import Effect

#: Ways that mean nothing here: blocks are left unmeasured on purpose.
_ON_PURPOSE = "unfinished"


class Endpoint(BaseModel):
    """An endpoint of one's own.

    Attributes:
        base_url: ``http://…/v1``.
        model: The model's name there.
        api_key_env: The variable of the environment that holds its key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    model: str
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")] = "OPENAI_API_KEY"


class Configuration(BaseModel):
    """One side of an interleaved comparison, as its YAML file holds it.

    Attributes:
        experiment: Its name.
        profile: A file of ``params/<experiment>/``.
        set: Parameters over it, by name.
        endpoint: Where; left out: the embedded server.
        engine_args: Further flags of the embedded vLLM.
        across: The fields whose difference is what is compared (either file may name them).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: str
    profile: str = "default"
    set: dict[str, Any] = {}
    endpoint: Endpoint | None = None
    engine_args: str | None = None
    across: list[str] = []

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """Read a file.

        Raises:
            InputError: It is not there, or holds something else.
        """
        return cls.of(yaml_file.read(path, "ab", "configuration"), path.name)

    @classmethod
    def of(cls, content: Any, source: str) -> "Configuration":  # noqa: ANN401 - YAML
        """Check what a file holds, or what a caller gives.

        Raises:
            InputError: Something in it is missing, unknown or of another kind.
        """
        return yaml_file.checked(cls, content, source, "configuration")

    @property
    def overrides(self) -> list[str]:
        """``set`` as ``--set`` takes it."""
        return [f"{name}={json.dumps(value)}" for name, value in self.set.items()]

    @property
    def settings(self) -> dict[str, Any]:
        """What it says of the settings, over those of the environment.

        Raises:
            InputError: The variable with the key is not set.
        """
        if self.endpoint is None and self.engine_args is None:
            return {}
        if (
            self.endpoint is None
        ):  # flags are for the embedded server, whatever endpoint the environment names
            nothing = dict.fromkeys(("openai_base_url", "openai_model", "tensormesh_user_id"))
            return {"kvlab_engine_args": self.engine_args, **nothing}
        if self.engine_args is not None:
            raise InputError(
                "engine_args",
                self.engine_args,
                "is for the embedded server, and endpoint names another; give one",
            )
        key = os.environ.get(self.endpoint.api_key_env)
        if not key:
            raise InputError(
                self.endpoint.api_key_env, None, "is not set; for a server that needs no key, set it to EMPTY"
            )
        return {
            "openai_base_url": self.endpoint.base_url, "openai_model": self.endpoint.model, "openai_api_key": key,
        }  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What came of an interleaved comparison.

    Attributes:
        comparison: Its verdict.
        blocks: Every block.
        planned: How many trials there might have been.
        folder: Where its runs, its page and compare.json are.
    """

    comparison: Comparison
    blocks: tuple[interleave.Block, ...]
    planned: int
    folder: Path


#: Opens a configuration in a folder: a `kvlab.session.Session`.
Opened = Callable[[Configuration, Path], Any]


def into_new_folder(
    first: Configuration,
    second: Configuration,
    opened: Opened,
    *,
    outputs: Path | None = None,
    block: int = 1,
    seed: int = SEED,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure two configurations in turns (`run`), into ``<outputs>/<date>/<time>_ab_<experiment>/``.

    Raises:
        InputError: A configuration cannot work; nothing is left behind.
    """
    place = outputs or paths.outputs_dir()
    check_outputs(place)
    folder = new_folder(place, "ab", first.experiment)
    try:
        return run(first, second, folder, opened, names=("A", "B"), block=block, seed=seed, say=say)
    except KvlabError:
        if not any(folder.glob(f"*/{status.FILE_NAME}")):  # nothing was measured
            shutil.rmtree(folder, ignore_errors=True)
        raise


def run(
    first: Configuration,
    second: Configuration,
    folder: Path,
    opened: Opened,
    *,
    names: tuple[str, str],
    block: int = 1,
    seed: int = SEED,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure two configurations in turns, and write the comparison into ``folder``.

    Raises:
        InputError: They are not of one experiment and plan, or a configuration cannot work; nothing is left behind.
    """
    if first.experiment != second.experiment:
        raise InputError("experiment", second.experiment, f"is not {first.experiment}; both must be of one")
    if block < 1:
        raise InputError("--block", block, "must be 1 or more")
    with ExitStack() as stack:
        sessions: list[Any] = []
        for configuration, name in zip((first, second), names, strict=True):
            session = opened(configuration, folder / name)
            stack.callback(session.close)
            sessions.append(session)
        a, b = sessions
        _check_plans(a, b)
        bets = Bets(float(a.params.compare_margin), CONFIDENCE)
        named = Named(str(a.params.compare_metric), bets.margin)
        for session in sessions:
            status.begin(session.folder, owner="kvlab ab")
            session.warm_up()
        made, across = [], {*first.across, *second.across}
        planned = len([t for t in a.trials if not t.planned.get("control")])
        try:
            for item in interleave.run((a, b), named.metric, bets, size=block, seed=seed, say=say):
                made.append(item)
                if len(made) == 1 and (found := _objections(folder, names, named, across)):
                    return _written(_refused(folder, names, named, across, found), made, planned, folder)
        except BaseException:
            for session in sessions:
                status.end(
                    session.folder, status.Status.INTERRUPTED, reason="stopped in the middle of an A/B"
                )
            raise
        reason = f"stopped by the rule after {len(made)} blocks ({bets.outcome})"
        for session in sessions:
            status.end(session.folder, status.Status.COMPLETED, reason=reason)
    return _written(_judged(folder, names, named, across, bets, made), made, planned, folder)


def _check_plans(a: Any, b: Any) -> None:  # noqa: ANN401 - sessions
    if (
        a.params.compare_metric != b.params.compare_metric
        or a.params.compare_margin != b.params.compare_margin
    ):
        raise InputError(
            "compare_metric", b.params.compare_metric, "and compare_margin must be the same in both files"
        )
    if [trial.trial_id for trial in a.trials] != [trial.trial_id for trial in b.trials]:
        raise InputError(
            "set", None, "gives the two files different trials; only what does not change the plan may differ"
        )


def _sides(folder: Path, names: tuple[str, str]) -> tuple[sides.Side, sides.Side]:
    read = [sides.Side(name, (sides.StoredRun.read(folder / name),)) for name in names]
    return read[0], read[1]


def _objections(
    folder: Path, names: tuple[str, str], named: Named, across: set[str]
) -> list[refusals.Objection]:
    found = refusals.objections(*_sides(folder, names), named.metric, across)
    return [item for item in found if item.field != _ON_PURPOSE]


def _refused(
    folder: Path, names: tuple[str, str], named: Named, across: set[str], found: list[refusals.Objection]
) -> Comparison:
    a, b = _sides(folder, names)
    return Comparison(a, b, named, None, refused=found, differences=differences(a, b), across=sorted(across))


def _judged(
    folder: Path,
    names: tuple[str, str],
    named: Named,
    across: set[str],
    bets: Bets,
    made: list[interleave.Block],
) -> Comparison:
    a, b = _sides(folder, names)
    if found := _objections(folder, names, named, across):
        return replace(_refused(folder, names, named, across, found))
    first, second = (
        found[found["metric"] == named.metric].reset_index(drop=True) for found in (table(a), table(b))
    )
    logs = [item.log_ratio for item in made if item.log_ratio is not None]
    interval = bets.interval()
    effect = Effect(
        float(sum(logs) / len(logs)) if logs else None, None, 0, bets.n, "blocks", METHOD, interval.reason
    )
    means = [_mean(part) for part in (first, second)]
    result = MetricResult(
        named.metric, bets.outcome, effect, CONFIDENCE, means[0], means[1], interval.reason, given=interval
    )
    weak = [line for line in refusals.weaknesses(a, b, named.metric) if "same time" not in line]
    starts_weak = [ONE_START] if min(a.starts, b.starts) < 2 else []
    return Comparison(
        a, b, named, result, weakened=[*weak, *starts_weak], differences=differences(a, b),
        alarms=interleave.false_alarms(logs, bets, seed=SEED), pairs=pairs(first, second), values=(first, second),
        across=sorted(across),
    )  # fmt: skip


def _mean(part: Any) -> float | None:  # noqa: ANN401 - a frame

    return math.exp(float(part["log"].mean())) if len(part) else None


def _written(found: Comparison, made: list[interleave.Block], planned: int, folder: Path) -> Result:
    writing.write([found], folder)
    writing.write_rows(folder / "blocks.csv", [
        {"block": k + 1, "trials": " ".join(item.trials), "first_side": "AB"[item.first_side], "log_ratio": item.log_ratio}
        for k, item in enumerate(made)
    ])  # fmt: skip
    return Result(found, tuple(made), planned, folder)
