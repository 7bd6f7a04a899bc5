"""What is kept while a run is open."""

import time

from kvlab.compression.datasets import Example, Manifest


class Pace:
    """Keeps requests apart, so that a minute has no more than it may have.

    The first one waits, too: opening has just asked.

    Attributes:
        gap_s: The least time between the starts of two requests.
    """

    def __init__(self, max_rpm: float | None) -> None:
        self.gap_s = 60.0 / max_rpm if max_rpm else 0.0
        self._next = time.monotonic() + self.gap_s

    def wait(self) -> None:
        """Return when the next request may start."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self.gap_s


class State:
    """The state of a session.

    Attributes:
        manifest: The dataset.
        examples: Its examples by id, each with its place.
        pace: Of requests to an endpoint.
        is_warm: Whether the model in this process has made its first timed call.
        floor: The smallest fraction that the policy can honour on every context, once it is asked for.
    """

    def __init__(self, manifest: Manifest, max_rpm: float | None) -> None:
        self.manifest = manifest
        self.examples: dict[str, tuple[int, Example]] = {
            example.example_id: (place, example) for place, (_, example) in enumerate(manifest.items())
        }
        self.pace = Pace(max_rpm)
        self.is_warm = False
        self.floor: float | None = None
