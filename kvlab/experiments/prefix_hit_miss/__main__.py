"""``python -m kvlab.experiments.prefix_hit_miss --size-a … --size-b …``: the run that `kvlab run` makes.

Whatever else it is given (``--profile``, ``--set``, ``--resume``…) goes to ``kvlab run`` as it stands.
"""

import argparse
import sys

from kvlab.command import cli
from kvlab.experiments.prefix_hit_miss import EXPERIMENT


def command(arguments: list[str]) -> list[str]:
    """Return the arguments of the same ``kvlab`` command.

    >>> command(["--size-a", "512", "--size-b", "256", "--profile", "smoke"])
    ['run', 'prefix_hit_miss', '--set', 'size_a=512', '--set', 'size_b=256', '--profile', 'smoke']
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m kvlab.experiments.{EXPERIMENT.name}",
        description=EXPERIMENT.title,
        epilog="All other options are those of `kvlab run`.",
        allow_abbrev=False,
    )
    parser.add_argument("--size-a", help="tokens of context A")
    parser.add_argument("--size-b", help="tokens of context B")
    known, others = parser.parse_known_args(arguments)
    sizes = []
    for name, value in (("size_a", known.size_a), ("size_b", known.size_b)):
        sizes += [] if value is None else ["--set", f"{name}={value}"]
    return ["run", EXPERIMENT.name, *sizes, *others]


if __name__ == "__main__":
    sys.argv[1:] = command(sys.argv[1:])
    cli.main()
