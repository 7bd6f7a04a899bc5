"""One fake server for the tests of a file, put back to the same options before each."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.servers.options import Options
from benchmarks.servers.process import FakeServer

DEFAULTS = Options()
BASE = {"base_ms": 2, "itl_ms": 1, "record_chunks": True}


@pytest.fixture(scope="module")
def process():
    with FakeServer(**BASE) as server:
        yield server


@pytest.fixture
def server(process):
    """One process for all tests, put back to the same options and an empty cache."""
    options = {name: getattr(DEFAULTS, name) for name in vars(DEFAULTS)}
    process.control(**{**options, **BASE}, evict="all")
    process.clear_truth()
    return process


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.root_url, timeout=5, trust_env=False) as client:
        yield client
