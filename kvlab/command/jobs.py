"""What a stage is asked for: a configuration, resolved, and the run folder that it is about."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvlab import experiments, paths
from kvlab.errors import InputError
from kvlab.escape import file_name
from kvlab.experiments.kv_budget_transition import prepared
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.params import Resolved, resolve
from kvlab.runs.contract import differences
from kvlab.runs.folder import stored_experiment
from kvlab.settings import Settings, load_settings
from kvlab.store.connect import FILE_NAME as DATABASE

NAME = "kv_budget_transition"
#: Parameters that change how answers are got and not what they are: ``--force`` may change them.
_ONLY_HOW = ("max_attempts", "engine.max_rpm", "engine.prefill_cache_gib")


@dataclass(frozen=True)
class Job:
    """What a stage was asked for, resolved.

    Attributes:
        folder: The run folder; ``None``: there is none yet.
    """

    resolved: Resolved
    settings: Settings
    profile: str
    outputs: Path
    folder: Path | None
    force: bool = False

    @property
    def params(self) -> KVBudgetTransitionParams:
        """The checked parameters."""
        assert isinstance(self.resolved.params, KVBudgetTransitionParams)  # noqa: S101 - for the type checker
        return self.resolved.params


def job(
    config: Path,
    overrides: list[str],
    *,
    run: Path | None = None,
    outputs: Path | None = None,
    new: bool = False,
    force: bool = False,
) -> Job:
    """Resolve a configuration and find its run folder.

    Raises:
        InputError: The file, a parameter or the folder is wrong.
    """
    settings = load_settings()
    resolved = resolve(KVBudgetTransitionParams, NAME, file=config, overrides=overrides, settings=settings)
    top = (outputs or paths.outputs_dir()).resolve()
    found = Job(resolved, settings, config.stem, top, None, force)
    if run is not None:
        _check_folder(run, found)
        found = replace(found, folder=run.resolve())
    elif not new:
        found = replace(found, folder=newest(found))
    if found.folder is not None:
        experiments.get(NAME).recall(found.folder, found.params)
    return found


def _check_folder(run: Path, job: Job) -> None:
    stored = stored_experiment(run)
    if stored["name"] != NAME:
        raise InputError("--run", str(run), f"is a run of {stored['name']}; name a run of {NAME}")
    changed = differences(_identity(stored["params"]), prepared.identity(job.params))
    lasting = [name for name in changed if name not in _ONLY_HOW]
    if lasting:
        more = f" ({len(lasting) - 1} more)" if len(lasting) > 1 else ""
        fix = f"has another {lasting[0]} than the config{more}, so other answers; leave --run out for a run of its own"
        raise InputError("--run", str(run), fix)
    if changed and not job.force:
        fix = f"has another {changed[0]} than the config; leave --run out, or --force"
        raise InputError("--run", str(run), fix)


def _identity(stored: dict[str, Any]) -> dict[str, Any]:
    """Return stored parameters without those of the analysis, as `prepared.identity` does."""
    return {name: value for name, value in stored.items() if name != "analysis"}


def newest(job: Job) -> Path | None:
    """Return the newest run folder of the same profile and parameters, the analysis aside; ``None``: there is none."""
    wanted = prepared.identity(job.params)
    for database in sorted(
        job.outputs.glob(f"*/*_{NAME}_{file_name(job.profile)}*/{DATABASE}"), reverse=True
    ):
        try:
            stored = stored_experiment(database.parent)
        except InputError:  # killed before anything was in it
            continue
        if stored["profile"] == job.profile and not differences(_identity(stored["params"]), wanted):
            return database.parent
    return None


def need_folder(job: Job) -> Path:
    """Return the run folder.

    Raises:
        InputError: Nothing was prepared with this configuration.
    """
    if job.folder is None:
        raise InputError(
            "--config", job.profile, "has no run yet with these parameters; run `kvlab kv prepare` first"
        )
    return job.folder
