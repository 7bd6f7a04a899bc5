"""The functions that ``import kvlab as kv`` offers: `connect`, `open`, `load`, `ab`, `compare`, `score`.

Each imports what it needs when it is called, so that ``import kvlab`` stays below half a second.
"""

import atexit
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvlab.comparison.ab import Configuration
    from kvlab.comparison.comparison import Comparison
    from kvlab.endpoints.server import Server
    from kvlab.experiment import Experiment
    from kvlab.loaded import LoadedRun
    from kvlab.notebook import NotebookSession
    from kvlab.params import Params, Resolved
    from kvlab.scoring.metrics import AnswerMode, Score
    from kvlab.session import Session
    from kvlab.settings import Settings

#: The sessions that this process has opened without a runner, by run folder.
_open_here: "dict[Path, NotebookSession[Any]]" = {}


def connect(base_url: str | None = None, *, model: str | None = None, api_key: str | None = None) -> "Server":
    """Connect to an OpenAI-compatible server and probe what it can prove about its prefix cache.

    Use it in a ``with`` statement, or call ``close()``: the embedded server stops with its last user.

    Args:
        base_url: ``http://…/v1``. ``None`` takes ``OPENAI_BASE_URL`` from ``.env`` or the environment; where that
            is not set either, it starts the embedded vLLM, or joins one that runs.
        model: The model's name on that server. ``None`` takes ``OPENAI_MODEL``, or the only model that it serves.
        api_key: ``None`` takes ``OPENAI_API_KEY``.

    Raises:
        InputError: The address, the key or the model is wrong.
        ServerError: The embedded server did not start.
    """
    from kvlab.endpoints.server import Server
    from kvlab.settings import load_settings

    given = {"openai_base_url": base_url, "openai_model": model, "openai_api_key": api_key}
    return Server.connect(load_settings(**{key: value for key, value in given.items() if value is not None}))


def load(folder: str | Path) -> "LoadedRun":
    """Load a stored run for reading: its requests, its findings, and the origin of each number.

    Args:
        folder: A run folder, or a run's id as ``kvlab ls`` prints it.

    Raises:
        InputError: There is no such run, or its database is damaged.
    """
    from kvlab.loaded import LoadedRun

    return LoadedRun.of(folder)


def compare(
    first: str | Path,
    second: str | Path,
    *,
    metric: str | None = None,
    margin: float | None = None,
    across: Sequence[str] = (),
) -> "Comparison":
    """Compare two sides of stored runs: the second against the first.

    Args:
        first: A run folder, an id as ``kvlab ls`` prints it, or a date (all runs of that day together).
        second: The same.
        metric: In place of the one that was named before the run, ``<arm>.<column>``.
        margin: In place of the one that was named before the run.
        across: Fields whose difference is what is compared, and which then forbid nothing.

    Returns:
        The verdict, the ratio with its interval, what differs, and how often equal sides would be called different.

    Raises:
        InputError: There is no such run, or both are the same.
    """
    from kvlab.comparison import sides
    from kvlab.comparison.comparison import compare as compared

    return compared(
        sides.find(first),
        sides.find(second),
        read_params=stored_params,
        metric=metric,
        margin=margin,
        across=across,
    )


def ab(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    block: int = 1,
    seed: int = 1337,
    outputs: str | Path | None = None,
    yes: bool = False,
) -> "Comparison":
    """Measure two configurations in turns, block by block in random order, until it can be said which is faster.

    Args:
        first: ``experiment``, and perhaps ``profile``, ``set`` (parameters), ``endpoint`` or ``engine_args``, and
            ``across`` (the fields whose difference is what is compared), as a file of ``kvlab ab`` holds them.
        second: The same, with what is to be compared.
        block: Trials a block.
        seed: Of the order within the blocks.
        outputs: Where the folder goes; ``None``: where run folders go.
        yes: Send as much as the plans say to another machine (`kvlab.spending`).

    Returns:
        The comparison; its runs and its page are in ``outputs/<date>/<time>_ab_<experiment>/``.

    Raises:
        InputError: A configuration cannot work; nothing is left behind.
        ServerError: An embedded server did not start.
    """
    from kvlab.comparison import ab as interleaved

    sides = [
        interleaved.Configuration.of(item, name) for item, name in ((first, "first"), (second, "second"))
    ]
    return interleaved.into_new_folder(
        sides[0],
        sides[1],
        partial(open_configuration, yes=yes),
        outputs=None if outputs is None else Path(outputs),
        block=block,
        seed=seed,
    ).comparison


def objection(configuration: "Configuration") -> str | None:
    """Return what must be said yes to before one side of `ab` is sent (`kvlab.spending`); ``None``: nothing."""
    from kvlab import spending

    experiment, resolved, settings = _configured(configuration)
    demand = experiment.plan(resolved.params, None).demand
    return spending.objection(experiment, resolved.params, demand, settings)


def _configured(configuration: "Configuration") -> "tuple[Experiment[Any], Resolved, Settings]":
    from kvlab import experiments
    from kvlab.params import resolve
    from kvlab.settings import load_settings

    settings = load_settings(**configuration.settings)
    experiment = experiments.get(configuration.experiment)
    resolved = resolve(
        experiment.Params,
        experiment.name,
        profile=configuration.profile,
        overrides=configuration.overrides,
        settings=settings,
    )
    return experiment, resolved, settings


def open_configuration(configuration: "Configuration", folder: Path, *, yes: bool = False) -> "Session[Any]":
    """Open one side of `ab` in a new folder, as ``kvlab run`` would, without a notebook.

    Raises:
        InputError: Something in it cannot work.
    """
    from kvlab.opening import open_run

    experiment, resolved, settings = _configured(configuration)
    folder.mkdir(parents=True)
    return open_run(
        experiment,
        resolved.params,
        settings=settings,
        folder=folder,
        profile=configuration.profile,
        sources=resolved.sources,
        allowed=yes,
    )


def stored_params(stored: Mapping[str, Any]) -> "Params":
    """Return the checked parameters of what a run has stored of itself.

    Raises:
        InputError: There is no such experiment, or they are none of its.
    """
    from kvlab import experiments

    found: Params = experiments.get(str(stored["name"])).Params.check(stored["params"])
    return found


def score(
    answer: str, gold: Sequence[str], *, language: str = "en", answer_mode: "AnswerMode" = "any"
) -> "Score":
    """Score one answer against gold answers.

    Args:
        answer: What the model wrote.
        gold: The correct answers, at least one.
        language: ``en`` or ``zh``; decides how text is normalised and split into words.
        answer_mode: ``any``: one gold answer is enough. ``all``: the answer must contain every one.

    Returns:
        ``em`` (exact match), ``f1`` (of words) and ``contains``, each between 0 and 1, as SQuAD and LongBench
        define them.

    Raises:
        InputError: There is no gold answer, or the language is unknown.
    """
    from kvlab.scoring import metrics

    return metrics.score(answer, list(gold), language, answer_mode=answer_mode)


def open(
    experiment: str,
    namespace: Mapping[str, Any] | None = None,
    /,
    *,
    profile: str | None = None,
    run_dir: str | Path = "",
    yes: bool = False,
    **parameters: Any,  # noqa: ANN401 - checked by the experiment
) -> "Session[Any]":
    """Open a run of an experiment: check its parameters, connect to the server, create or resume a run folder.

    Args:
        experiment: Its name, such as ``token_sweep``; ``kvlab doctor`` lists them.
        namespace: A notebook's ``globals()``. Its ``parameters`` cell has set the parameters there, and
            ``profile`` and ``run_dir``.
        profile: The file ``params/<experiment>/<profile>.yaml``, whose values apply where no other is given.
        run_dir: The run folder to resume; empty creates a new one.
        yes: Send as much as the plan says to another machine (`kvlab.spending`); a notebook's variable
            ``yes`` says the same.
        parameters: Parameters by name; they override those of the profile.

    Returns:
        The open run: ``pending()``, ``measure(trial)``, ``table(name)``, ``picture(name)``, ``finish()``.

    Raises:
        InputError: A parameter, a setting or the endpoint is wrong; nothing has been written.
        ServerError: The embedded server did not start.
    """
    from kvlab import experiments
    from kvlab.opening import open_run
    from kvlab.settings import load_settings

    found, settings = experiments.get(experiment), load_settings()
    values = dict(namespace or {}) | parameters
    folder = _folder(str(run_dir or values.get("run_dir") or ""))
    name = str(profile or values.get("profile") or "custom")
    if profile is not None:
        from kvlab.params import resolve

        start = resolve(found.Params, found.name, profile=profile, settings=None).params
        values = start.model_dump() | values
    params, sources = _parameters(found.Params, values, None if folder else settings)
    _close_earlier(found.name, folder, params)
    context = json.loads(os.environ.get("KVLAB_HEADLESS", "{}"))  # what else the runner knows
    from kvlab.notebook import NotebookSession

    session = open_run(
        found,
        params,
        settings=settings,
        folder=folder,
        profile=name,
        sources=sources | context.get("sources", {}),
        force=bool(context.get("force")),
        locked=bool(context.get("locked")),
        allowed=yes or values.get("yes") is True or bool(context.get("allowed")),
        made=NotebookSession,
    )
    assert isinstance(session, NotebookSession)  # noqa: S101 - `made` says so
    if namespace is not None:
        session.watch(namespace)
    if "KVLAB_HEADLESS" not in os.environ:
        session.own_status()
        _open_here[session.folder.resolve()] = session
        atexit.register(session.abandon)
    return session


def _folder(run_dir: str) -> Path | None:
    if not run_dir:
        return None
    from kvlab.runs.find import run_folder

    return run_folder(run_dir, field="run_dir")


def _close_earlier(name: str, folder: Path | None, params: "Params") -> None:
    """Close the run of the same experiment that this process opened before, and print what is left of it."""
    for path, session in list(_open_here.items()):
        same = folder is not None and path == folder.resolve()
        if session.experiment.name != name or not (same or folder is None):
            continue
        del _open_here[path]
        if session.closed:
            continue
        left = sum(state != "done" for state, _ in session.database.trial_state().values())
        session.abandon()
        if not same:
            print(
                f"closed the run that was open: {path} ({left} of {len(session.trials)} trials not measured; "
                f'run_dir="{path}" goes on with it)',
                flush=True,
            )


def _parameters(kind: "type[Params]", values: Mapping[str, Any], settings: Any) -> tuple[Any, dict[str, str]]:  # noqa: ANN401 - Settings or None
    """Return the checked parameters, and where each came from.

    The runner passes resolved parameters. A notebook that was started by hand has not read the tuning keys of
    ``.env`` yet.
    """
    from kvlab.params import env_layers

    found = kind.collect(values)
    sources = dict.fromkeys(found, "notebook")
    for source, layer in env_layers(kind, settings):
        found |= layer
        sources |= dict.fromkeys(layer, source)
    kind.inline_files(found, sources)
    return kind.check(found, sources), sources
