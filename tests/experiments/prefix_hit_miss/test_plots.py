import json
import subprocess
import sys

import pytest

from kvlab.experiments.prefix_hit_miss import plots

HAND = {
    "phase": "phase2_python_api",
    "model": "facebook/opt-125m",
    "timestamp": "2026-01-01T00:00:00",
    "config": {"context_size_a": 512, "context_size_b": 256, "max_output_tokens": 50, "num_trials": 2, "warmup_trials": 1},
    "warmup_time_ms": 123.45,
    "cache_hit": {"trials": [], "stats": {"ttft_mean": 20, "ttft_median": 20, "ttft_stdev": 1, "total_time_mean": 300,
        "total_time_stdev": 2, "throughput_mean": 166.0, "throughput_stdev": 3.0, "prompt_tokens": 800}},
    "cache_miss": {"trials": [], "stats": {"ttft_mean": 60, "ttft_median": 60, "ttft_stdev": 1, "total_time_mean": 330,
        "total_time_stdev": 2, "throughput_mean": 150.0, "throughput_stdev": 3.0, "prompt_tokens": 290}},
    "ttft_degradation_pct": 200.0,
}  # fmt: skip


def changed(**parts):
    return json.loads(json.dumps(HAND)) | parts


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def test_a_file_written_by_hand_anywhere_below_is_drawn(tmp_path, capsys):
    write(tmp_path / "theirs" / "deep", "results_phase2_a512_b256.json", HAND)
    other = changed(config=HAND["config"] | {"context_size_a": 1024})
    write(tmp_path / "mine", "results_phase2_a1024_b256.json", other)
    write(tmp_path, "results_phase1_a512_b256.json", changed(phase="phase1_http"))
    assert plots.main([str(tmp_path)]) == 0
    assert (tmp_path / "experiment1_all_configs_phase2.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "experiment1_all_configs_phase1.png").exists()
    found = plots.discover_results(tmp_path).phases
    assert {key: sorted(configs) for key, configs in found.items()} == {
        "phase1": [(512, 256)],
        "phase2": [(512, 256), (1024, 256)],
    }
    assert "a512_b256, a1024_b256" in capsys.readouterr().out


def test_two_panels_and_three_where_conditions_have_a_warm_up():
    config = (512, 256)
    assert len(plots.draw({config: HAND}, "x").axes) == 2
    warm = changed()
    for condition in ("cache_hit", "cache_miss"):
        warm[condition]["stats"]["warmup_time_mean"] = 90.0
    assert len(plots.draw({config: warm}, "x").axes) == 3
    assert len(plots.draw({config: warm, (1, 2): HAND}, "x").axes) == 2, "a panel with holes would mislead"


def test_bars_have_the_means():
    ttft, throughput = plots.draw({(512, 256): HAND}, "x").axes
    assert [bar.get_height() for bar in ttft.patches] == [20, 60]
    assert [bar.get_height() for bar in throughput.patches] == [166, 150]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("results_phase2_a512_b256.json", "{", "cannot be read"),
        ("results_phase2_a512_b256.json", "[1]", "holds no JSON object"),
        ("results_phase2_a512_b256.json", "[" * 100_000, "cannot be read"),
        ("results_phase2_a512_b128.json", HAND, "its config says [512, 256]"),
        ("results_phase2_a512_b256.json", changed(config=None), "its config says"),
        ("results_phase2_a512_b256.json", changed(cache_miss=[]), "cache_miss.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", changed(cache_hit={"stats": {"ttft_mean": "fast"}}), "cache_hit.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", json.dumps(HAND).replace('"ttft_mean": 20', '"ttft_mean": NaN'), "cache_hit.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", json.dumps(HAND).replace('"ttft_mean": 20', '"ttft_mean": 1e308'), "cache_hit.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", json.dumps(HAND).replace('"ttft_mean": 20', f'"ttft_mean": 1{"0" * 400}'), "cache_hit.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", json.dumps(HAND).replace('"ttft_mean": 20', '"ttft_mean": -1'), "cache_hit.stats.ttft_mean"),
        ("results_phase2_a512_b256.json", "", "cannot be read"),
        ("results_phase2_aX_b256.json", HAND, "its name"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_skipped_by_name(tmp_path, capsys, name, content, reason):
    write(tmp_path / "bad", name, content)
    assert plots.main([str(tmp_path)]) == 2, "nothing is left to draw"
    assert f"skipped bad/{name}: {reason}" in capsys.readouterr().out
    write(tmp_path / "good", "results_phase2_a512_b256.json", HAND)
    assert plots.main([str(tmp_path)]) == 0


def test_of_two_runs_of_one_size_the_later_is_drawn(tmp_path):
    name = "results_phase2_a512_b256.json"
    write(tmp_path / "b", name, changed(timestamp="2026-01-01T00:00:00"))
    write(tmp_path / "a", name, changed(timestamp="2026-01-02T00:00:00", model="later"))
    found = plots.discover_results(tmp_path)
    assert found.phases["phase2"][(512, 256)]["model"] == "later"
    assert [(path.parent.name, reason) for path, reason in found.skipped] == [("b", f"{name} of a is later")]


def test_the_command(tmp_path):
    write(tmp_path, "results_phase2_a512_b256.json", HAND)
    command = [sys.executable, "-m", "kvlab.experiments.prefix_hit_miss.plots"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nowhere = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True)
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (2, 1)


def test_what_a_file_calls_itself_is_text(tmp_path, capsys):
    name = "a\x1b[2J\nb $x^{$ <"
    write(tmp_path / name, "results_phase2_a512_b256.json", "\ufeff" + json.dumps(changed(phase=name)))
    write(tmp_path / name, "results_phase2_a1_b1.json", "{")
    assert plots.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 2
    assert (tmp_path / "experiment1_all_configs_phase2.png").exists()


def test_many_sizes_fit_into_a_picture(tmp_path):
    configs = {(a, 1): HAND for a in range(300)}
    assert plots.draw(configs, "x").get_size_inches()[0] * 110 < 2**16
