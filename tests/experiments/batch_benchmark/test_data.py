import numpy as np

from kvlab.experiments.batch_benchmark import data
from kvlab.load.recorder import Rows
from tests.load.bench import TRIAL, Bench, finished
from tests.load.test_recorder import GOOD, answer


def test_the_gaps_between_tokens_are_those_within_a_request(tmp_path):
    bench = Bench(tmp_path)
    job = bench.job("http://x/v1", 4)
    with bench.database.transaction():
        base = bench.database.add_prompt({"marker": job.workload.marker, "text": job.workload.text})
    head, _, body = answer(*[{"choices": [{"delta": {"content": "A"}}]}] * 2, GOOD).partition(b"data:")
    events = [b"data:" + event for event in body.split(b"data:")]
    arrivals = {0: (1, 2, 5), 1: (9, 10, 12), 3: (20, 20, 21)}  # ms; item 2 has no answer
    rows = []
    for item, moments in arrivals.items():
        stamps = [int(ms * 1e6) for ms in (*moments, moments[-1])]
        pieces = [(stamps[0], head), *zip(stamps, events, strict=True)]
        rows.append(Rows(job, base).row(finished(item, pieces, ended_ns=stamps[-1])))
    bench.database.record_items("r", TRIAL, rows)
    with bench.database.transaction():  # an answer that came in one piece has no stamps: a batch job's
        bench.database.sql.execute(
            "UPDATE telemetry SET token_ns_json = '[]' WHERE request_id LIKE '%000001%'"
        )
    found = data.gaps_ms(bench.database.sql)
    assert list(found) == [TRIAL]
    np.testing.assert_allclose(found[TRIAL], [1, 3, 0, 1])
    bench.database.sql.execute("UPDATE telemetry SET token_ns_json = '[]'")
    assert len(data.gaps_ms(bench.database.sql)[TRIAL]) == 0
