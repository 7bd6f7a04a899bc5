"""``kvlab run all``: every experiment with one profile, one after the other, and one line about each."""

from pathlib import Path
from typing import Any

from kvlab import errors, experiments, spending
from kvlab.command import consent, runner
from kvlab.command.show import say
from kvlab.demand import Demand
from kvlab.errors import InputError, KvlabError
from kvlab.experiment import Experiment
from kvlab.params import resolve
from kvlab.settings import Settings, load_settings


def run(profile: str, outputs: Path | None, *, strict: bool, yes: bool) -> int:
    """Run them. Returns the worst exit code; a failure of one does not stop the others.

    Args:
        profile: Of each experiment; one that has none of the name is refused before anything starts.
        outputs: Where run folders go; ``None``: the usual place.
        strict: Count a verdict that is not PASS as 3.
        yes: Send as much as the plans say to another machine.

    Raises:
        InputError: A profile, the endpoint or a parameter is wrong, or the yes is missing; nothing was sent.
    """
    settings, every = load_settings(), sorted(experiments.registry().items())
    objections = [_objection(experiment, profile, settings) for _, experiment in every]
    consent.require("; ".join(filter(None, objections)) or None, yes=yes)
    ended: dict[str, tuple[int, str]] = {}
    for name, _ in every:
        say(f"== {name}")
        request = runner.Request(experiment=name, profile=profile, outputs=outputs, yes=True)
        try:
            outcome = runner.run(request, say)
        except KvlabError as error:
            ended[name] = error.exit_code, str(error)
            say(str(error), err=True)
            continue
        verdict = runner.verdict_of(outcome.folder)
        code = outcome.exit_code
        if code == errors.EXIT_OK and strict and verdict != "PASS":
            code = errors.EXIT_NOT_PASSED
        ended[name] = code, f"{verdict or outcome.status}: {outcome.reason or outcome.folder / 'report.html'}"
        if code == errors.EXIT_INTERRUPTED:
            break
    for name, (code, line) in ended.items():
        say(f"{name}: {line}" + (f" (exit code {code})" if code else ""))
    return max((code for code, _ in ended.values()), default=errors.EXIT_OK)


def _objection(experiment: Experiment[Any], profile: str, settings: Settings) -> str | None:
    params = resolve(experiment.Params, experiment.name, profile=profile, settings=settings).params
    try:
        demand = experiment.plan(params, None).demand
    except InputError as error:  # its own run will say so
        demand = Demand(why=str(error))
    return spending.objection(experiment, params, demand, settings)
