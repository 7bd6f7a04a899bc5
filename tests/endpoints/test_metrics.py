"""Counters: read whatever the page looks like, believed only where they are one request's."""

import httpx
import pytest

from kvlab.endpoints.metrics import FINISHED, Metrics, Scrape, difference

PROMPT, HITS = "vllm:prompt_tokens_total", "vllm:prefix_cache_hits_total"
RUNNING = "vllm:num_requests_running"


def scrape(born=(), **values):
    """A scrape of a server's counters by short names."""
    names = {"finished": FINISHED, "prompt": PROMPT, "hits": HITS, "running": RUNNING}
    return Scrape({names.get(key, key): float(value) for key, value in values.items()}, born=frozenset(born))


BEFORE = scrape(finished=5, prompt=1000, hits=300, running=0)


def test_one_request_of_its_own_is_believed():
    view = difference(BEFORE, scrape(finished=6, prompt=1100, hits=364, running=0), 100, 50.0)
    assert (view.cached_tokens, view.reason) == (64, None)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (scrape(finished=7, prompt=1200, hits=364, running=0), "2 requests finished meanwhile"),
        (scrape(finished=5, prompt=1100, hits=364, running=0), "0 requests finished meanwhile"),
        # A foreign request was prefilled in the window, and is still being decoded.
        (scrape(finished=6, prompt=1700, hits=864, running=1), "1 other requests were being worked on"),
        (scrape(finished=6, prompt=1700, hits=864), "700 prompt tokens were counted"),
        (scrape(finished=6, prompt=1020, hits=364, running=0), "20 prompt tokens were counted"),
        (scrape(finished=6, prompt=900, hits=364, running=0), "different processes"),
        (scrape(finished=4, prompt=1100, hits=364, running=0), "different processes"),
    ],
)
def test_what_may_be_anothers_is_not(after, reason):
    view = difference(BEFORE, after, 100)
    assert view.cached_tokens is None
    assert reason in view.reason


def test_two_replicas_are_told_apart_by_when_their_counters_were_made():
    one, two = [("a_created", 1.0)], [("a_created", 2.0)]
    after = {"finished": 6, "prompt": 1100, "hits": 364}
    view = difference(scrape(one, finished=5, prompt=1000, hits=300), scrape(two, **after), 100)
    assert "different processes" in view.reason
    more = [*one, ("b_created", 3.0)]  # a counter that is made on its first use
    assert (
        difference(scrape(one, finished=5, prompt=1000, hits=300), scrape(more, **after), 100).reason is None
    )


def test_a_request_cannot_have_taken_the_server_longer_than_its_client():
    times = {
        f"vllm:request_{name}_time_seconds_{of}": 1.0
        for name in ("queue", "prefill")
        for of in ("sum", "count")
    }
    old = dict.fromkeys(times, 0.0)
    before, after = (
        scrape(finished=n, prompt=p, hits=0, **each) for n, p, each in ((0, 0, old), (1, 100, times))
    )
    assert difference(before, after, 100, 2500.0).prefill_ms == 1000.0
    late = difference(before, after, 100, 60.0)
    assert (late.prefill_ms, late.queue_ms, late.cached_tokens) == (None, None, None)
    assert "2000 ms of work on a request that took 60 ms" in late.reason


PAGE = """# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 64.0%s
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 3%s
vllm:e2e_request_latency_seconds_count{engine="0"} 2.0
vllm:e2e_request_latency_seconds_count{engine="1"} 1.0
vllm:spec_decode_rate NaN
vllm:flops{note="a \\"quoted\\" value"} +Inf
vllm:cache_config_info{block_size="%s"} 1.0
"""


@pytest.mark.parametrize("exemplar", ["", ' # {trace_id="abc"} 1.0 1690000000.1'])
@pytest.mark.parametrize(
    ("stated", "block"),
    [("16", 16), ("0", None), ("-1", None), ("²", None), ("x", None), ("9" * 30, None), ("", None)],
)
def test_a_page_is_read_with_exemplars_odd_blocks_and_numbers_that_are_none(exemplar, stated, block):
    found = Scrape.parse(PAGE % (exemplar, exemplar, stated))
    assert (found.finished, found.cached_tokens(), found.block_size()) == (3.0, 64.0, block)
    assert "vllm:spec_decode_rate" not in found.values


def test_a_line_that_is_none_costs_only_itself():
    found = Scrape.parse(PAGE % ("", "", "16") + "{{{ nonsense = 4\n")
    assert found.cached_tokens() == 64


@pytest.mark.parametrize("page", ['[{"iter": 3}]', "<html>\n<body>hello</body>", "\x00\xff", "null"])
def test_another_format_is_no_page_of_counters(page):
    with pytest.raises(ValueError, match="not one line"):
        Scrape.parse(page)


@pytest.mark.parametrize("name", ["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"])
def test_older_names_are_known_and_blocks_are_no_tokens(name):
    text = f"# HELP {name} Hits, in terms of number of %s.\n# TYPE {name} counter\n{name} 7\n"
    assert Scrape.parse(text % "cached tokens").cached_tokens() == 7
    assert Scrape.parse(text % "cached blocks").cached_tokens() is None


def test_two_counters_of_the_same_are_not_added():
    both = "vllm:gpu_prefix_cache_hits_total 7\nvllm:prefix_cache_hits_total 7\n"
    assert Scrape.parse(both).cached_tokens() == 7


def test_pages_that_go_back_are_of_several_processes():
    turns = iter([3, 9, 4])
    handle = lambda _: httpx.Response(200, text=f"{FINISHED} {next(turns)}\n")  # noqa: E731
    metrics = Metrics(httpx.Client(transport=httpx.MockTransport(handle)), "http://x/metrics")
    before = metrics.scrape()
    assert metrics.several is None
    metrics.scrape()
    view = metrics.view(before)
    assert view.cached_tokens is None
    assert "several processes" in view.reason
