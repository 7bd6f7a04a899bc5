-- The KV-budget transition: the examples that were asked, what each answer's cache held, its score,
-- and what the analysis made of them. Everything below scores is derived and may be written anew.

CREATE TABLE datasets (
    dataset_id     TEXT PRIMARY KEY,   -- <name>__<task>
    name           TEXT NOT NULL,
    task           TEXT NOT NULL,
    tokenizer_name TEXT NOT NULL,
    dataset_hash   TEXT NOT NULL,
    n_bins         INTEGER NOT NULL,
    manifest_json  TEXT NOT NULL       -- all but the examples, which are rows of their own
) STRICT;

CREATE TABLE examples (
    example_id   TEXT PRIMARY KEY,
    dataset_id   TEXT NOT NULL REFERENCES datasets,
    question     TEXT NOT NULL,
    context      TEXT NOT NULL,
    answers_json TEXT NOT NULL,
    meta_json    TEXT NOT NULL
) STRICT;

CREATE TABLE bins (
    dataset_id       TEXT NOT NULL REFERENCES datasets,
    bin_idx          INTEGER NOT NULL,
    upper_edge_tokens INTEGER NOT NULL,
    n_examples       INTEGER NOT NULL,
    PRIMARY KEY (dataset_id, bin_idx)
) STRICT;

CREATE TABLE manifest_entries (
    dataset_id TEXT NOT NULL REFERENCES datasets,
    example_id TEXT NOT NULL REFERENCES examples,
    ordinal    INTEGER NOT NULL,
    bin_idx    INTEGER NOT NULL,
    token_len  INTEGER NOT NULL,
    PRIMARY KEY (dataset_id, example_id)
) STRICT;

ALTER TABLE requests ADD COLUMN example_id TEXT REFERENCES examples;
ALTER TABLE requests ADD COLUMN phase TEXT;   -- planned, added, noise_floor, control_…, timed
CREATE INDEX requests_by_run ON requests (run_id, example_id);

CREATE TABLE kv_budgets (              -- what the cache of one answer held, observed
    request_id        TEXT PRIMARY KEY REFERENCES requests,
    policy_id         TEXT NOT NULL,
    budget            REAL NOT NULL,
    n_context         INTEGER NOT NULL,
    n_planned         INTEGER NOT NULL,
    n_kept_json       TEXT NOT NULL,   -- by layer
    cache_bytes       INTEGER,
    peak_memory_bytes INTEGER,
    memory_reason     TEXT,
    evidence          TEXT NOT NULL    -- where n_kept comes from
) STRICT;

CREATE TABLE added_budgets (           -- refinement: decided once, before it is measured
    round      INTEGER PRIMARY KEY,
    budget     REAL,                   -- NULL: there was nothing to refine
    reason     TEXT NOT NULL
) STRICT;

CREATE TABLE scores (
    request_id TEXT PRIMARY KEY REFERENCES requests,
    em         REAL NOT NULL,
    f1         REAL NOT NULL,
    contains   REAL NOT NULL,
    pred_norm  TEXT NOT NULL,
    gold_norm  TEXT NOT NULL,
    outcome    TEXT,                   -- taxonomy of an answer; NULL: nothing to remark
    scorer     TEXT NOT NULL
) STRICT;

CREATE TABLE bin_stats (
    run_id         TEXT NOT NULL REFERENCES runs,
    dataset_id     TEXT NOT NULL REFERENCES datasets,
    phase          TEXT NOT NULL,
    bin_idx        INTEGER NOT NULL,
    n              INTEGER NOT NULL,
    acc_mean       REAL,               -- of the metric that the parameters name
    acc_std        REAL,
    acc_ci_low     REAL,
    acc_ci_high    REAL,
    f1_mean        REAL,
    em_mean        REAL,
    contains_mean  REAL,
    fail_rate      REAL,
    no_answer_rate REAL,
    latency_p50_ms REAL,
    latency_p95_ms REAL,
    tokens_p50     REAL,
    tokens_p95     REAL,
    PRIMARY KEY (run_id, bin_idx)
) STRICT;
CREATE INDEX bin_stats_by_dataset ON bin_stats (dataset_id, bin_idx);

CREATE TABLE transition_summary (
    experiment_id      TEXT PRIMARY KEY REFERENCES experiments,
    transition_budget  REAL,           -- these are the point rule's
    pre_budget         REAL,
    acc_pre            REAL,
    acc_post           REAL,
    "drop"             REAL,
    method             TEXT NOT NULL,
    transition_bin_idx INTEGER,
    calibrated_json    TEXT NOT NULL,  -- the calibrated rule's
    summary_json       TEXT            -- the whole summary, for the report; NULL: not analyzed as a stage
) STRICT;

CREATE TABLE stages (
    name          TEXT PRIMARY KEY,
    inputs_sha256 TEXT NOT NULL,
    done_utc      TEXT NOT NULL,
    forced        INTEGER NOT NULL DEFAULT 0
) STRICT;
