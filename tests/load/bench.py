"""A database with one trial, and jobs for it."""

import os
import subprocess
import sys
import time

import psutil

from kvlab.evidence import CacheLaw
from kvlab.load import control
from kvlab.load.generator import Finished
from kvlab.load.job import Job, Labels, Retries
from kvlab.prompts.batch import Workload, handbook
from kvlab.store.database import Database
from kvlab.taxonomy import ErrorType
from kvlab.timing.arrivals import Arrivals
from kvlab.timing.request import Failure, Target, Transfer
from kvlab.timing.response import ResponseReader, WireError
from tests.store.test_database import fill

TRIAL = "t0"
BODY = {"model": "fake", "max_tokens": 4, "temperature": 0.0, "stream": True,
        "stream_options": {"include_usage": True}}  # fmt: skip


def finished(item, pieces, *, sent_ns=1, ended_ns=3, **changes):
    """One exchange as the generator hands it on, whose connection ended after these bytes."""
    reader, failure = ResponseReader(), None
    try:
        complete = any(reader.feed(t_ns, data) for t_ns, data in pieces)
        if not complete and not reader.end(ended_ns):
            raise WireError(reader.cut_off())
    except WireError as error:
        failure = Failure(ErrorType.ENGINE_ERROR, str(error), reader.status)
    reader.close()
    return Finished(item, 1, True, 0, reader, Transfer(sent_ns, failure, **changes), None)


class Bench:
    """One run's database; each `job` is a session of its own."""

    def __init__(self, folder):
        self.path = folder / "run.sqlite"
        self.database = Database(self.path, create=True)
        fill(self.database)
        self.sessions = 1

    def job(self, url, items, *, kind="shared", arrivals=None, session=None, timeout_s=20.0, **changes):
        workload = Workload(kind, "abc", handbook(1, 3), conversations=4, trim_interval=3, keep_messages=2)
        quick = Retries(max_attempts=6, wait_s=0.02, max_wait_s=0.1, outage_limit_s=20.0)
        arrivals = arrivals or Arrivals("closed", 8)
        values = {"retries": quick, "labels": Labels(CacheLaw.whole_blocks(16), 3), **changes}
        tag = f"i/{TRIAL}.s{session or self.sessions}"
        return Job(str(self.path), "r", TRIAL, session or 1, kind, tag, items, workload, arrivals,
                   Target(url, timeout_s=timeout_s), BODY, **values)  # fmt: skip

    def resume(self):
        """Begin another session, as a resumed run does; returns its number."""
        self.database.begin_session("e", "now", 1)
        self.sessions += 1
        return self.sessions

    def run(self, job):
        told = []
        so_far = control.progress(self.database, job)
        return control.run(job, so_far, on_report=told.append, tick=lambda: None), told

    def read(self, query):
        return [tuple(row) for row in self.database.sql.execute(query)]

    def final(self):
        return sorted(row[0] for row in self.read("SELECT item FROM requests WHERE final = 1"))

    def answered_ids(self):
        return {row[0] for row in self.read("SELECT request_id FROM responses")}


def start(bench, job, code=""):
    """Start a job from a process that can be killed, as a notebook can; it prints every report."""
    script = (
        "import sys, json; from kvlab.load import control; from kvlab.load.job import Job, Progress\n"
        "job, so_far = Job.read(0), Progress.read(0)\n"
        f"{code}\n"
        "print(control.run(job, so_far, on_report=lambda r: print(json.dumps(r), flush=True), tick=lambda: None).why)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(job.message() + control.progress(bench.database, job).message())
    process.stdin.flush()
    return process


def recorder_of(process):
    return psutil.Process(process.pid).children()[0]


def gone(processes, within_s=20.0):
    """Whether they end on their own."""
    _, left = psutil.wait_procs(processes, timeout=within_s)
    return not left


def until(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def kill(pid, signal_number):
    os.kill(pid, signal_number)
