"""What the cache of the fake server holds, over HTTP."""

from __future__ import annotations

from benchmarks.servers.asking import LONG, cached, chat, chunks, stream


def test_full_hit_reads_what_the_block_size_predicts(server, client):
    assert cached(stream(client)) == 0
    again = stream(client)
    prompt = chunks(again)[-1]["usage"]["prompt_tokens"]
    assert cached(again) == (prompt - 1) // 16 * 16 > 0
    assert [r["cached_tokens"] for r in server.truth()] == [0, cached(again)]


def test_salts_isolate_unless_ignored_or_rejected(server, client):
    stream(client, cache_salt="a")
    assert cached(stream(client, cache_salt="b")) == 0
    assert cached(stream(client, cache_salt="a")) > 0
    server.control(honour_salt=False)
    stream(client)
    assert cached(stream(client, cache_salt="c")) > 0
    server.control(salt_rejected=True)
    assert chat(client, cache_salt="d").status_code == 400


def test_an_answer_is_cached_for_the_next_turn(server, client):
    server.control(output_tokens=64, base_ms=0, itl_ms=0)
    question = [{"role": "user", "content": LONG}]
    for tokens in range(32, 48):  # one of them ends exactly with a block
        body = {"messages": question, "max_tokens": tokens, "cache_salt": str(tokens)}
        first = client.post("/v1/chat/completions", json=body).json()
        answer = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
        body["messages"] = [*question, answer, {"role": "user", "content": "and"}]
        usage = client.post("/v1/chat/completions", json=body).json()["usage"]
        computed = first["usage"]["total_tokens"] - 1  # the last token generated has no KV yet
        assert usage["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16


def test_blocks_are_there_from_the_first_token_on(server, client):
    slow = {"X-Fake-Schedule": "150,150"}
    body = {"prompt": LONG, "stream": True}
    with client.stream("POST", "/v1/completions", json=body, headers=slow) as response:
        early = client.post(
            "/v1/completions", json={"prompt": LONG, "max_tokens": 1}, headers={"X-Fake-Schedule": "0"}
        )
        assert early.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        response.read()
    assert server.truth()[0]["cached_tokens"] == 0


def test_eviction_warming_and_reset(server, client):
    server.control(warm=[LONG, [{"role": "user", "content": LONG}]])
    assert cached(stream(client)) > 0
    server.control(evict=2)
    assert server.stats()["cache_blocks"] == 2
    assert client.post("/reset_prefix_cache").json() == {"success": True}
    assert cached(stream(client)) == 0
    server.control(reset="lie")
    assert client.post("/reset_prefix_cache").json() == {"success": True}
    assert cached(stream(client)) > 0
    server.control(capacity_blocks=3)
    assert cached(stream(client)) == 48
