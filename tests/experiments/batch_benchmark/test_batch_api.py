"""The batch API of a server in trouble, and of one that sends nonsense."""

import json

import httpx
import pytest
import stamina

from benchmarks.servers.process import FakeServer
from kvlab import api
from kvlab.endpoints.batch_api import Batch, message_of
from kvlab.experiments.batch_benchmark import batch_api
from kvlab.redact import Redactor
from kvlab.timing.request import Failure
from kvlab.timing.stream import Generation
from tests.experiments.batch_benchmark.test_run import SMALL


@pytest.fixture(autouse=True)
def _without_waiting():
    with stamina.set_testing(True, attempts=4):
        yield


def batch(*answers):
    """A batch API that gives these answers in turn: a status, a body, or an exception."""
    turns = iter(answers)

    def handle(request):
        answer = next(turns)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer if isinstance(answer, tuple) else (answer, {})
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    return Batch(httpx.Client(transport=httpx.MockTransport(handle)), "http://x/v1", 10.0)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_absent_is_not_offered(status):
    assert batch(status).absent() == f"HTTP {status}"
    assert batch((200, b"<html>")).absent() is not None
    assert batch((200, b"[" * 100_000)).absent() is not None
    assert batch((200, {"data": []})).absent() is None


@pytest.mark.parametrize("trouble", [429, 500, 503, httpx.ConnectError("refused")])
def test_trouble_passes_and_is_no_answer(trouble):
    assert batch(trouble, trouble, trouble, 200).absent() is None
    with pytest.raises(httpx.HTTPError):
        batch(*[trouble] * 4).absent()


def test_a_wrong_key_is_not_asked_about_again():
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        batch(401).absent()


@pytest.mark.parametrize(
    "trouble",
    [500, 429, httpx.ReadTimeout("slow"), (200, b"<html>"), (200, {"id": 1}), (200, b"[" * 100_000)],
)
def test_polls_that_fail_in_a_row_are_borne(trouble):
    assert batch(trouble, trouble, (200, {"status": "completed"})).look("b")["status"] == "completed"


def test_a_line_that_is_no_json_costs_that_line():
    found = batch((200, b'{"a": 1}\nnonsense\n\n{"b": "\\ud800"}\n')).lines("f")
    assert list(found) == [{"a": 1}, None, {"b": "\ufffd"}]


def line(**body):
    return {"custom_id": "000001", "response": {"status_code": 200, "body": body}}


@pytest.mark.parametrize(
    "odd",
    [
        line(choices=[None]),
        line(choices=[{"message": {"content": ["A"]}}]),
        line(choices=[{"message": "A"}]),
        line(choices={"a": 1}),
        line(choices=[{"finish_reason": 3}]),
        {"response": {"status_code": "never", "body": []}},
        {"response": {"status_code": 500, "body": [1]}},
        {"response": [], "error": "gone"},
    ],
)
def test_a_malformed_line_is_a_failure(odd):
    found = batch_api._read(odd)
    assert isinstance(found, Failure)
    assert found.message


def test_a_good_line_is_an_answer_and_one_of_nobody_is_no_item():
    found = batch_api._read(line(choices=[{"message": {"content": "A"}, "finish_reason": "stop"}]))
    assert isinstance(found, Generation)
    assert (found.text, found.finish_reason) == ("A", "stop")
    assert [batch_api._item(odd) for odd in (None, [], {"custom_id": 1}, {"custom_id": "x"})] == [-1] * 4


def test_a_resume_goes_on_with_its_batch_and_asks_nothing_first(point_at, monkeypatch):
    with FakeServer(batch_api=True, batch_ms=300) as server:
        point_at(server)
        settings = {"profile": "t", **SMALL, "sizes": [8], "strategies": ["batch_api"]}
        run = api.open("batch_benchmark", settings)
        (trial,) = run.pending()
        with monkeypatch.context() as patch:
            patch.setattr(batch_api.time, "sleep", _stop)
            with pytest.raises(KeyboardInterrupt):
                run.measure(trial)
        monkeypatch.setattr(Batch, "absent", _stop)
        monkeypatch.setattr(Batch, "create", _stop)
        (trial,) = run.pending()
        run.measure(trial)
        assert list(run.pending()) == []
        run.finish()


def _stop(*_):
    raise KeyboardInterrupt


def test_statuses_in_capitals_are_over_and_the_servers_own_words_are_kept():
    found = batch(
        (200, {"status": " FAILED", "errors": {"data": [{"message": "Enqueued token limit"}]}})
    ).look("b")
    assert found["status"] == "failed"
    missing = batch_api._missing([found])
    assert "Enqueued token limit" in missing.message
    assert missing.error_type != "TIMEOUT"
    assert batch_api._missing([{"status": "expired"}]).error_type == "TIMEOUT"


@pytest.mark.parametrize(
    "answer", [(200, {"error": {"message": "no quota"}}), (400, {"error": {"message": "no quota"}})]
)
def test_what_the_server_says_of_an_upload_is_in_the_error(answer):
    with pytest.raises((ValueError, httpx.HTTPError), match="no quota"):
        batch(answer).create(["{}\n"])


def test_more_requests_than_a_file_may_hold_go_in_several(monkeypatch):
    monkeypatch.setattr(batch_api, "MAX_LINES", 3)
    monkeypatch.setattr(batch_api, "_requests", lambda job, left: [f"{item}\n" for item in left])
    sent, state = [], {}

    class Sink:
        def create(self, lines):
            sent.append(lines)
            return f"b{len(sent)}"

    batch_api._create(Sink(), None, list(range(7)), state, lambda: None)
    assert [len(lines) for lines in sent] == [3, 3, 1]
    assert (state["batch_ids"], state["sent_items"]) == (["b1", "b2", "b3"], 7)
    batch_api._create(Sink(), None, list(range(7)), state, lambda: None)
    assert len(sent) == 3, "a resume sends nothing twice"


def test_the_configured_field_is_read_from_a_line():
    answer = {**line(choices=[{"message": {"content": "A"}}]), "custom_id": "000001"}
    answer["response"]["body"]["usage"] = {"prompt_cache_hit_tokens": 64}
    assert batch_api._read(answer, "usage.prompt_cache_hit_tokens").field_value == 64


KEY = "sk-CANARY-0123456789abcdef"


def safe(*answers, **headers):
    """The same, of a server that echoes the key, and a client that takes it out."""
    turns = iter(answers)

    def handle(_):
        status, body = next(turns)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=headers)

    client = httpx.Client(transport=httpx.MockTransport(handle))
    return Batch(client, f"http://x/{KEY}/v1", 10.0, Redactor([KEY]))


def test_whatever_the_server_says_of_a_key_comes_without_it():
    """Each place in which its words are read: a header, an error, a status, a count, a line."""
    long = "x" * 480 + KEY
    assert "CANARY" not in safe((200, b"<html>"), **{"content-type": f"text/{KEY}"}).absent()
    job = {"status": KEY, "request_counts": {"completed": KEY}, "errors": {"data": [{"message": long}]}}
    found = safe((200, job)).look("b")
    assert "canary" not in json.dumps(found).lower()
    assert "CANARY" not in message_of(found)
    assert "CANARY" not in str(
        list(safe((200, json.dumps({"custom_id": KEY, KEY: long}).encode())).lines("f"))
    )
    for answer in (
        (400, {"error": {"message": long}}),
        (200, {"error": long}),
        (200, {}),
        (400, KEY.encode()),
    ):
        with pytest.raises((ValueError, httpx.HTTPError)) as failed:
            safe(answer).create(["{}\n"])
        assert "CANARY" not in str(failed.value)
        with pytest.raises((ValueError, httpx.HTTPError)) as failed:
            list(safe((400, answer[1])).lines("f"))
        assert "CANARY" not in str(failed.value)
    with pytest.raises(ValueError, match="repeats a secret"):
        safe((200, {"id": "file"}), (200, {"id": f"batch-{KEY}"})).create(["{}\n"])


def test_ids_of_files_are_what_they_are():
    """They are asked for, and neither shown nor stored."""
    found = safe((200, {"status": "Completed", "output_file_id": KEY, "error_file_id": None})).look("b")
    assert (found["status"], found["output_file_id"], found["error_file_id"]) == ("completed", KEY, None)
