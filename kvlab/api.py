"""The front door: `connect`, `open`, `load`, `score`; ``import kvlab as kv`` brings them, and nothing heavy.

Each function imports what it needs when it is called, so that ``import kvlab`` takes a moment.
"""

import atexit
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.errors import InputError

if TYPE_CHECKING:
    from kvlab.endpoints.server import Server
    from kvlab.loaded import LoadedRun
    from kvlab.notebook import NotebookSession
    from kvlab.params import Params
    from kvlab.scoring.metrics import AnswerMode, Score
    from kvlab.session import Session

#: The sessions that this process has opened without a runner, by run folder.
_open_here: "dict[Path, NotebookSession[Any]]" = {}


def connect(base_url: str | None = None, *, model: str | None = None, api_key: str | None = None) -> "Server":
    """Connect to a server and find out what it can prove.

    Args:
        base_url: ``http://…/v1``; ``None``: the endpoint of ``.env`` or of the environment, else the
            embedded vLLM, started if need be.
        model: The model's name there.
        api_key: ``None``: ``OPENAI_API_KEY``.

    Raises:
        InputError: The address, the key or the model is wrong.
        ServerError: The embedded server did not start.
    """
    from kvlab.endpoints.server import Server
    from kvlab.settings import load_settings

    given = {"openai_base_url": base_url, "openai_model": model, "openai_api_key": api_key}
    return Server.connect(load_settings(**{key: value for key, value in given.items() if value is not None}))


def load(folder: str | Path) -> "LoadedRun":
    """Open a stored run to read it.

    Args:
        folder: A run folder, or an id as ``kvlab ls`` prints it.

    Raises:
        InputError: There is no run.
    """
    from kvlab.loaded import LoadedRun

    return LoadedRun.of(folder)


def score(
    answer: str, gold: Sequence[str], *, language: str = "en", answer_mode: "AnswerMode" = "any"
) -> "Score":
    """Score one answer against gold answers: ``em``, ``f1`` and ``contains``, each from 0 to 1.

    Args:
        answer: What the model wrote.
        gold: The right answers.
        language: ``en`` or ``zh``.
        answer_mode: ``any``: one gold answer suffices; ``all``: the answer must hold all of them.

    Raises:
        InputError: There is no gold answer, or no such language.
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
    **parameters: Any,  # noqa: ANN401 - checked by the experiment
) -> "Session[Any]":
    """Open an experiment: check its parameters, connect, make a run folder or go on with one.

    Args:
        experiment: Its name.
        namespace: A notebook's ``globals()``, in which its ``parameters`` cell has left the parameters,
            ``profile`` and ``run_dir``.
        profile: A file of ``params/<experiment>/`` that the parameters start from.
        run_dir: A run folder to go on with; empty: a new one.
        parameters: Parameters by name.

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
    _let_go(found.name, folder, params)
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
    if not Path(run_dir).is_dir():
        raise InputError(
            "run_dir", run_dir, "is not there; name a run folder, or leave it empty for a new one"
        )
    return Path(run_dir)


def _let_go(name: str, folder: Path | None, params: "Params") -> None:
    """Close what an earlier call in this process has opened of the same experiment, and say what it leaves."""
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

    The runner has resolved everything; a notebook by hand still has to hear the tuning keys.
    """
    from kvlab.params import env_layers

    found = kind.collect(values)
    sources = dict.fromkeys(found, "notebook")
    for source, layer in env_layers(kind, settings):
        found |= layer
        sources |= dict.fromkeys(layer, source)
    kind.inline_files(found, sources)
    return kind.check(found, sources), sources
