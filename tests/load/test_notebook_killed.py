"""SIGKILL of a notebook's kernel under load, and `--resume` of its run."""

import signal

import psutil

from benchmarks.servers.process import FakeServer
from tests.command.tool import folders, kvlab, read, start, status, until

ITEMS = 600
LOAD = ["run", "batch_benchmark", "--profile", "smoke", "--set", f"sizes=[{ITEMS}]", "--set", "strategies=[shared_prefix]",
        "--set", "prompt_tokens=100", "--set", "max_tokens=3"]  # fmt: skip


def _final(folder):
    return [row[0] for row in read(folder, "SELECT item FROM requests WHERE final = 1 ORDER BY item")]


def test_the_kernel_is_killed_under_load_and_the_resume_sends_the_rest(outputs, point_at):
    # Later requests wait at the server: no machine is fast enough to end the load before the kill.
    with FakeServer(base_ms=5, itl_ms=1, answer_first=300) as server:
        point_at(server)
        process = start(*LOAD)
        until(lambda: bool(folders(outputs)) and len(_final(folders(outputs)[0])) > 60)
        (folder,) = folders(outputs)
        family = psutil.Process(process.pid).children(recursive=True)
        kernel = next(child for child in family if "ipykernel_launcher" in " ".join(child.cmdline()))
        kernel.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == 1
        assert not psutil.wait_procs(family, timeout=20)[1], "nothing is left behind"
        before = _final(folder)
        assert 60 < len(before) <= 300

        server.control(answer_first=10**9)
        server.clear_truth()
        resumed = kvlab("run", "batch_benchmark", "--resume", str(folder))
        assert resumed.returncode == 0, resumed.stdout
        sent = [record["request_id"] for record in server.truth() if "shared_prefix" in record["request_id"]]
    items = sorted(int(name.rpartition("/")[2].split(".")[0]) for name in sent)
    assert items == sorted(set(range(ITEMS)) - set(before))
    assert _final(folder) == list(range(ITEMS))
    assert status(folder) == "completed"
