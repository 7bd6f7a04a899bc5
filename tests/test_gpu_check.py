"""The GPU check against a recorded card: what it runs, what it writes down, and when it says no."""

import json

import pytest

from benchmarks import gpu_check
from benchmarks.servers.nvml import RecordedNvml
from kvlab import experiments

GIB = 2**30


class Card(RecordedNvml):
    """A card whose memory in use a test sets."""

    used = GIB

    def _next(self):
        return self.used, {}


def runner(card, *, takes=4 * GIB, code=0):
    def run(words, outputs, limit_s):
        assert limit_s <= gpu_check.TOTAL_S
        folder = outputs / "2026-01-01" / f"000000_{words[0]}_smoke"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"status": "completed"}')
        (folder / "summary.json").write_text(
            json.dumps({"verdict": "PASS", "headline": f"{words[0]} went well"})
        )
        card.used = GIB + takes
        nvml = card.nvmlDeviceGetMemoryInfo(0)
        assert nvml.used == GIB + takes
        import time

        time.sleep(0.25)  # two rounds of the sampler
        card.used = GIB
        return code

    return run


def test_each_part_is_run_and_its_memory_and_verdict_are_written_down(outputs, capsys):
    card = Card([])
    assert gpu_check.main(card, runner(card)) == 0
    (path,) = outputs.glob("gpu-check/*/gpu_check.json")
    content = json.loads(path.read_text())
    assert {part["name"] for part in content["parts"]} == {part.name for part in gpu_check.PARTS}
    for part in content["parts"]:
        assert (part["code"], part["verdict"], part["well"]) == (0, "PASS", True)
        assert part["delta_bytes"] == 4 * GIB
        assert part["samples"] > 2
    assert card.opened == 0, "NVML is given back"
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("takes", "code"), [(0, 0), (gpu_check.LEAST_BYTES - 1, 0), (4 * GIB, 1), (4 * GIB, None)]
)
def test_a_part_that_fails_or_leaves_the_card_alone_fails_the_check(outputs, takes, code):
    """What ran on the CPU, unseen, would else be a GPU that was checked."""
    card = Card([])
    found = gpu_check.check(outputs, library=card, runner=runner(card, takes=takes, code=code), parts=gpu_check.PARTS[:1])  # fmt: skip
    assert [outcome.well for outcome in found] == [False]


@pytest.mark.parametrize("card", [RecordedNvml([], driver=False), RecordedNvml([], devices=0)])
def test_without_a_card_it_is_one_line_and_nothing_is_left(outputs, capsys, card):
    assert gpu_check.main(card, lambda *_: pytest.fail("something was run")) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert not outputs.exists()


def test_what_no_time_is_left_for_is_not_run_and_not_well(outputs, monkeypatch):
    monkeypatch.setattr(gpu_check, "TOTAL_S", 0.0)
    found = gpu_check.check(outputs, library=Card([]), runner=lambda *_: pytest.fail("run"), parts=gpu_check.PARTS[:2])  # fmt: skip
    assert [(outcome.code, outcome.well) for outcome in found] == [(None, False)] * 2


def test_its_parts_are_experiments_with_that_profile():
    for part in gpu_check.PARTS:
        assert part.words[0] in experiments.registry()
        assert (experiments.paths.home() / "params" / part.words[0] / "smoke.yaml").is_file()
