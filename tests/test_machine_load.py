import math
import subprocess
import sys
import time

from kvlab.machine_load import LoadWatch, MachineLoad

BURN = "import time\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"


def test_work_of_our_own_is_not_foreign_and_shares_are_shares():
    with LoadWatch() as watch, subprocess.Popen([sys.executable, "-c", BURN]) as child:
        child.wait()
    load = watch.load
    assert load.reason is None
    assert load.own_share > 0
    for share in (load.foreign_share, load.own_share):
        assert 0 <= share <= 1
    assert load.steal_share is None or 0 <= load.steal_share <= 1
    assert math.isclose(load.interval_s, 0.5, abs_tol=5)


def test_what_belongs_to_the_server_is_told_from_what_does_not():
    # The shell ends at once, so its child is nobody's here, like a server that somebody else has started.
    shell = f"{sys.executable} -c '{BURN.replace('0.5', '1.5')}' >/dev/null 2>&1 & echo $!"
    server = int(subprocess.check_output(["/bin/sh", "-c", shell], stdin=subprocess.DEVNULL))
    time.sleep(0.1)
    with LoadWatch([server]) as ours, LoadWatch() as theirs:
        time.sleep(0.5)
    assert ours.load.own_share > theirs.load.own_share
    assert theirs.load.foreign_share > ours.load.foreign_share


def test_too_short_an_interval_has_a_reason_and_no_share():
    with LoadWatch() as watch:
        pass
    assert watch.load.foreign_share is None
    assert "too short" in watch.load.reason
    assert not watch.load.busy
    assert "unknown" in watch.load.words


def test_a_busy_machine_is_named():
    assert MachineLoad(1.0, 0.15, 0.5, 0.1).busy
    assert not MachineLoad(1.0, 0.05, 0.9, None).busy
    assert "30%" in MachineLoad(1.0, 0.3, 0.5, 0.1).words
