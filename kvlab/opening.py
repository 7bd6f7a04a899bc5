"""Opening a run: the lock, the checks, the engine, the folder with its contract; and what undoes them again."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kvlab import spending
from kvlab.endpoints import proof
from kvlab.experiment import EngineFacts, Experiment
from kvlab.runs import contract
from kvlab.runs.folder import Run, new_folder
from kvlab.runs.lock import acquire
from kvlab.session import P, Session
from kvlab.settings import Settings
from kvlab.starts import Starts
from kvlab.starts import check as check_starts


def open_run(
    experiment: Experiment[P],
    params: P,
    *,
    settings: Settings,
    folder: Path | None,
    profile: str,
    sources: Mapping[str, str],
    force: bool = False,
    outputs: Path | None = None,
    locked: bool = False,
    allowed: bool = False,
    made: "type[Session[Any]]" = Session,
) -> Session[P]:
    """Open an experiment with checked parameters, in ``folder`` or in a new run folder.

    The folder's lock is taken before the engine is opened, which can take minutes, and before
    anything is written (``locked``: by the process that started this one). A plan that may send much to
    another machine needs a yes (``allowed``: it was given).

    Raises:
        InputError: A setting, the endpoint or the contract is wrong, or somebody else is writing in
            the folder; nothing has been written.
        ServerError: The embedded server did not start.
    """
    with ExitStack() as undo:
        lock = None
        if folder is not None and not locked:
            lock = acquire(folder)
            undo.callback(lock.release)
        plan = experiment.plan(params, folder)

        if not allowed:
            spending.require(experiment, params, plan.demand, settings)

        def check(max_model_len: int | None) -> None:
            experiment.check(params, plan, EngineFacts(max_model_len))

        def opened() -> Any:  # noqa: ANN401 - an Engine
            return experiment.open(params, settings).open(check)

        engine = opened()
        undo.callback(engine.close)
        check_starts(params.starts, engine)
        experiment.check(params, plan, EngineFacts(engine.identity.max_model_len, engine))
        if experiment.open(params, settings).in_process is None:
            for need, why in proof.lacking(engine.identity, experiment.needs):
                print(f"times only here, and the verdict will be INVALID: {need}: {why}", flush=True)
        found = contract.contract(
            experiment=experiment.name,
            params=params.run_identity,
            identity=engine.identity,
            settings=settings,
            counter=engine.counter.source,
        )
        if folder is None:
            from kvlab import paths

            folder = new_folder(outputs or paths.outputs_dir(), experiment.name, profile)
            lock = acquire(folder)
            undo.callback(lock.release)
        run = Run.start(
            folder,
            experiment=experiment.name,
            profile=profile,
            contract=found | dict(plan.contract),
            params=params.model_dump(mode="json"),
            sources=sources,
            identity=engine.identity,
            isolation_id=params.isolation_id,
            force=force,
        )
        undo.callback(run.close)
        session = made(experiment, params, plan, engine, run, lock)
        session.starts = Starts(plan.trials, params.starts, opened, run.session_id * 1000)
        undo.pop_all()
        return session
