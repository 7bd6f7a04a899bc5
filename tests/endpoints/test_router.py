"""Behind a router the page of counters and the request reach different replicas: no figure may mix them."""

import http.client
import itertools
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import probe
from kvlab.endpoints.identify import identify
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.settings import load_settings


@pytest.fixture
def round_robin():
    """A router in front of some ports: each request goes to the next one."""
    routers = []

    def start(*ports):
        turns = itertools.cycle(ports)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._pass_on(None)

            def do_POST(self):
                self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

            def _pass_on(self, body):
                replica = http.client.HTTPConnection("127.0.0.1", next(turns), timeout=30)
                replica.request(self.command, self.path, body, {"Content-Type": "application/json"})
                answer = replica.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                replica.close()

            def log_message(self, *_):
                pass

        router = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=router.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        routers.append(router)
        return f"http://127.0.0.1:{router.server_address[1]}/v1"

    yield start
    for router in routers:
        router.shutdown()
        router.server_close()


def test_no_time_and_no_count_of_the_server_is_given_where_replicas_take_turns(monkeypatch, round_robin):
    draw = random.Random(7)
    with FakeServer(base_ms=1, itl_ms=0) as one, FakeServer(base_ms=30, itl_ms=0) as two:
        monkeypatch.setenv("OPENAI_BASE_URL", round_robin(one.port, two.port))
        monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
        monkeypatch.setenv("OPENAI_MODEL", "fake")
        with endpoint.connect(load_settings()) as connection:
            identity = probe.probe(connection, identify(connection))
            engine = OpenAICompat(connection, identity, counter=None)
            for number in range(8):
                text = " ".join(f"w{draw.randrange(10**6)}" for _ in range(40))
                prompt = {"messages": [{"role": "user", "content": text}]}
                row = engine.ask(Call(f"r{number}", "any", prompt, {"max_tokens": 1}))
                assert row.server.prefill_ms is None
                assert row.server.reason
                assert row.evidence.metrics_tokens is None
    assert identity.facts["metrics"].holds is False
    assert "several processes" in identity.facts["metrics"].why
