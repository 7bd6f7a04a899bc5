"""Who starts a server, who shares it, and that nothing is left of it, on a server that is a fake."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace

import psutil
import pytest

from kvlab.errors import InputError, ServerError
from kvlab.serving.embedded import lease_server, running
from kvlab.serving.state import Home, ProcessId, State, family, homes, make_home
from tests.serving.conftest import HERE, eventually, fake_spec, gone, whole_server


@pytest.fixture
def lease_fake(folder):
    leases = []

    def lease(mode="ok", **options):
        options = {"say": lambda _: None, "grace_s": 0.3} | options
        leases.append(lease_server(fake_spec(mode, folder), **options))
        return leases[-1]

    yield lease
    for each in leases:
        each.release()


def supervisor_of(lease):
    (found,) = [state for home in homes() if (state := home.read()) and state.processes[0].pid == lease.pid]
    return found.supervisor


def test_a_lease_gives_a_server_and_its_end_ends_all_of_it(lease_fake):
    lease = lease_fake()
    supervisor, members = supervisor_of(lease), whole_server(lease)
    with urllib.request.urlopen(lease.base_url.replace("/v1", "/health")) as answer:
        assert answer.status == 200
    assert lease.alive()
    assert not lease.reused
    assert lease.flags == ("--fake", "--size", "1")
    assert lease.model.served_name == "fake"
    assert (lease.engine_version, lease.device, lease.block_size) == ("fake 1.0", "cpu", 32)
    assert lease.log_path.is_file()
    lease.release()
    lease.release()
    assert not lease.alive()
    assert gone([supervisor, *members])
    assert list(homes()) == []
    assert not (lease.log_path.parent / "s").exists()


def test_the_supervisor_is_no_child_of_its_starter(lease_fake):
    lease = lease_fake()
    assert supervisor_of(lease).process().ppid() != os.getpid()


def test_a_second_lease_shares_the_server_and_keeps_it(lease_fake):
    first, second = lease_fake(), lease_fake()
    members = whole_server(first)
    assert second.reused
    assert (second.pid, second.base_url, second.flags) == (first.pid, first.base_url, first.flags)
    first.release()
    assert second.alive()
    assert all(each.process() for each in members)
    second.release()
    assert gone(members)


def test_a_lease_right_after_the_last_one_ended_gets_a_server(lease_fake):
    for _ in range(3):
        lease = lease_fake(grace_s=0.0)
        assert lease.alive()
        lease.release()


def test_a_context_manager_releases(lease_fake):
    with lease_fake() as lease:
        members = whole_server(lease)
    assert gone(members)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_killed_holder_holds_no_lease(holders, name):
    holder = holders()
    members = family(json.loads(holder.stdout.readline())["pid"])
    assert len(members) == 2
    holder.send_signal(signal.Signals[name])
    assert gone(members)


def test_a_killed_supervisor_leaves_no_server_and_is_taken_over(lease_fake):
    lease = lease_fake()
    members = whole_server(lease)
    supervisor_of(lease).process().kill()
    assert gone(members)
    assert eventually(lambda: not lease.alive())
    assert running() == []
    again = lease_fake()
    assert not again.reused
    assert again.alive()


def test_a_terminated_supervisor_stops_its_server(lease_fake):
    lease = lease_fake()
    members = whole_server(lease)
    supervisor_of(lease).process().terminate()
    assert gone(members)
    assert eventually(lambda: not lease.alive())
    assert "told to stop" in lease.log_path.read_text()


def test_a_server_that_dies_ends_its_leases_and_its_children(lease_fake):
    lease = lease_fake()
    supervisor, members = supervisor_of(lease), whole_server(lease)
    members[0].process().kill()
    assert gone([supervisor, *members])
    assert not lease.alive()
    assert "SIGKILL" in lease.log_path.read_text()


def test_two_at_once_start_one_server(holders):
    pair = [holders(), holders()]
    told = [json.loads(each.stdout.readline()) for each in pair]
    assert told[0]["pid"] == told[1]["pid"]
    assert sorted(each["reused"] for each in told) == [False, True]


def test_an_interrupted_wait_stops_the_server_it_waits_for(holders, folder):
    holder = holders("never-ready")
    assert eventually(lambda: (folder / "started").exists())
    (up,) = running()
    assert up["status"] == "starting"
    members = family(up["pid"])
    holder.send_signal(signal.SIGINT)
    assert gone(members)
    assert eventually(lambda: running() == [])


def test_a_server_that_cannot_start_says_why(lease_fake, folder):
    with pytest.raises(ServerError) as error:
        lease_fake("fail")
    text = str(error.value)
    assert "exit code 3" in text
    assert "first error: ValueError: the model is broken" in text
    assert "RuntimeError: engine failed" in text.splitlines()[-2]
    assert str(folder) in text
    assert eventually(lambda: not list(homes()))


def test_a_program_that_is_not_there_says_so(folder):
    spec = replace(fake_spec("ok", folder), program=("/no/such/program",))
    with pytest.raises(ServerError, match="No such file or directory: '/no/such/program'"):
        lease_server(spec, say=lambda _: None)


def test_a_server_that_is_not_ready_in_time_is_stopped(lease_fake):
    with pytest.raises(ServerError, match="not ready in time"):
        lease_fake("never-ready", timeout_s=1.0)
    assert eventually(lambda: running() == [])


def test_a_port_lost_to_another_is_replaced_once(lease_fake, folder):
    assert lease_fake("port-taken-once").alive()
    assert (folder / "tried").exists()


def test_secrets_reach_neither_server_nor_supervisor(lease_fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    monkeypatch.setenv("KVLAB_TEST_PLAIN", "shown")
    lease = lease_fake()
    for pid in (lease.pid, supervisor_of(lease).pid):
        environment = psutil.Process(pid).environ()
        assert "OPENAI_API_KEY" not in environment
        assert environment["KVLAB_TEST_PLAIN"] == "shown"


def test_what_a_dead_supervisor_left_is_ended_but_not_a_stranger(lease_fake, folder):
    leftover, stranger = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    dead = ProcessId(2**22 - 1, 1.0)
    mine = ProcessId.of(leftover.pid)
    # The stranger has a number that the file names, but it is not the process that the file means.
    theirs = ProcessId.of(stranger.pid)._replace(created=1.0)
    home = make_home(fake_spec("ok", folder).digest)
    home.write(State([], {}, status="ready", port=1, supervisor=dead, processes=(mine, theirs)))
    assert running() == []
    try:
        assert not lease_fake().reused
        assert leftover.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        leftover.kill()
        stranger.kill()
        leftover.wait()
        stranger.wait()


def test_an_unreadable_state_file_is_replaced(lease_fake, folder):
    home = make_home(fake_spec("ok", folder).digest)
    home.state.write_text('{"half": ')
    home.socket.touch()
    assert lease_fake().alive()


def test_running_tells_and_changes_nothing(lease_fake):
    assert running() == []
    lease = lease_fake()
    (told,) = running()
    assert (told["pid"], told["base_url"], told["status"]) == (lease.pid, lease.base_url, "ready")
    assert lease.alive()


def test_the_last_few_logs_are_kept(folder):
    home = Home(folder)
    for text in "abcdef":
        home.rotate_log()
        home.log.write_text(text)
    kept = {path.name: path.read_text() for path in folder.glob("server.log*")}
    assert kept == {"server.log": "f", "server.log.1": "e", "server.log.2": "d", "server.log.3": "c"}


def test_a_runtime_folder_must_be_short_and_ones_own(folder, monkeypatch):
    make_home("digest")
    (folder / "run").chmod(0o777)
    with pytest.raises(InputError, match="only you can write to"):
        make_home("digest")
    monkeypatch.setenv("KVLAB_RUNTIME_DIR", "/tmp/" + "x" * 100)
    with pytest.raises(InputError, match="too long"):
        make_home("digest")


def test_importing_it_imports_no_engine():
    code = "import sys, kvlab.serving.embedded; print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE)
    assert done.stdout == "[]\n"
