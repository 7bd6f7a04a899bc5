-- The one schema of a run's database, for all experiments: one experiment a database, its runs, the planned trials,
-- and every request made. Older databases are brought to it by `kvlab.store.old`.
--
-- Units are in the names; times of a request are perf_counter nanoseconds, tied to the date by
-- the session's anchor. Only raw stamps are stored; durations are derived.

CREATE TABLE experiments (
    experiment_id TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    profile       TEXT NOT NULL,
    params_json   TEXT NOT NULL,
    sources_json  TEXT NOT NULL,   -- where each parameter's value came from
    contract_json TEXT NOT NULL,   -- the reproducibility contract
    isolation_id  TEXT NOT NULL,   -- goes into every prompt's marker
    created_utc   TEXT NOT NULL
) STRICT;

CREATE TABLE sessions (            -- one a start or resume
    session_id     INTEGER PRIMARY KEY,
    experiment_id  TEXT NOT NULL REFERENCES experiments,
    started_utc    TEXT NOT NULL,
    anchor_perf_ns INTEGER NOT NULL,
    anchor_unix_ns INTEGER NOT NULL,
    pid            INTEGER NOT NULL,
    forced_json    TEXT NOT NULL   -- contract fields that --force let differ
) STRICT;

CREATE TABLE runs (                -- one engine setting
    run_id                  TEXT PRIMARY KEY,
    experiment_id           TEXT NOT NULL REFERENCES experiments,
    engine_name             TEXT NOT NULL,
    engine_version          TEXT,
    base_url                TEXT NOT NULL,
    model_name              TEXT NOT NULL,
    model_revision          TEXT,
    kv_policy               TEXT,
    kv_budget               REAL,
    prompt_template_version TEXT NOT NULL
) STRICT;

CREATE TABLE trials (
    trial_id      TEXT PRIMARY KEY,
    run_id        TEXT NOT NULL REFERENCES runs,
    ordinal       INTEGER NOT NULL,
    point         TEXT NOT NULL,
    repeat        INTEGER NOT NULL,
    planned_json  TEXT NOT NULL,
    status        TEXT NOT NULL DEFAULT 'planned' CHECK (status IN ('planned', 'done', 'failed')),
    attempts      INTEGER NOT NULL DEFAULT 0,   -- claimed before anything of an attempt is sent
    UNIQUE (run_id, ordinal)
) STRICT;

CREATE TABLE prompts (
    prompt_sha256 TEXT PRIMARY KEY,
    body_json     TEXT NOT NULL
) STRICT;

CREATE TABLE requests (
    request_id     TEXT PRIMARY KEY,
    run_id         TEXT NOT NULL REFERENCES runs,
    session_id     INTEGER NOT NULL REFERENCES sessions,
    trial_id       TEXT REFERENCES trials,    -- NULL: a warm-up
    attempt        INTEGER NOT NULL,
    arm            TEXT NOT NULL,
    measured       INTEGER NOT NULL CHECK (measured IN (0, 1)),
    prompt_sha256  TEXT NOT NULL REFERENCES prompts,
    target_tokens  INTEGER,
    decoding_json  TEXT NOT NULL,
    sent_utc       TEXT NOT NULL,
    item           INTEGER,                    -- which request of a trial of many, from 0; NULL: it has no items
    final          INTEGER CHECK (final IN (0, 1)),  -- the last attempt at its item
    example_id     TEXT REFERENCES examples,
    phase          TEXT,                       -- planned, added, noise_floor, control_…, timed
    UNIQUE (trial_id, attempt, arm)
) STRICT;
CREATE INDEX requests_by_trial ON requests (trial_id, attempt);
CREATE INDEX requests_by_run ON requests (run_id, example_id);
CREATE UNIQUE INDEX one_final_row_an_item ON requests (trial_id, item) WHERE final = 1;

CREATE TABLE responses (
    request_id              TEXT PRIMARY KEY REFERENCES requests,
    text                    TEXT NOT NULL,
    reasoning               TEXT NOT NULL,
    finish_reason           TEXT,
    http_status             INTEGER,
    usage_json              TEXT,
    prompt_tokens           INTEGER,
    completion_tokens       INTEGER,
    cached_tokens           INTEGER,
    predicted_cached_tokens INTEGER,
    shared_tokens           INTEGER NOT NULL,
    cache_state             TEXT NOT NULL CHECK (cache_state IN ('cold', 'hit', 'partial', 'unverified')),
    cache_source            TEXT,
    cache_reason            TEXT NOT NULL,
    evidence_json           TEXT NOT NULL
) STRICT;

CREATE TABLE failures (
    request_id  TEXT PRIMARY KEY REFERENCES requests,
    error_type  TEXT NOT NULL,
    http_status INTEGER,
    message     TEXT NOT NULL
) STRICT;

CREATE TABLE telemetry (
    request_id       TEXT PRIMARY KEY REFERENCES requests,
    sent_ns          INTEGER NOT NULL,
    first_byte_ns    INTEGER,
    first_token_ns   INTEGER,
    first_content_ns INTEGER,
    last_token_ns    INTEGER,
    done_ns          INTEGER,
    token_ns_json    TEXT NOT NULL,
    server_queue_ms   REAL,
    server_prefill_ms REAL,
    server_decode_ms  REAL,
    server_ttft_ms    REAL,
    server_reason     TEXT,
    due_ns            INTEGER        -- when the request was to be sent; NULL: at once
) STRICT;

-- A request is answered or it failed: never both. (That it is never neither is checked when a
-- trial's transaction commits, since SQLite has no deferred checks.)
CREATE TRIGGER response_of_a_failure BEFORE INSERT ON responses
WHEN EXISTS (SELECT 1 FROM failures WHERE request_id = NEW.request_id)
BEGIN SELECT RAISE(ABORT, 'this request has failed'); END;

CREATE TRIGGER failure_of_a_response BEFORE INSERT ON failures
WHEN EXISTS (SELECT 1 FROM responses WHERE request_id = NEW.request_id)
BEGIN SELECT RAISE(ABORT, 'this request was answered'); END;

-- Whatever else an experiment sees, in the order in which it was seen: a new one needs no table of its own.

CREATE TABLE observations (
    observation_id INTEGER PRIMARY KEY,
    session_id     INTEGER NOT NULL REFERENCES sessions,  -- whose clock t_ns is on
    trial_id       TEXT REFERENCES trials,                -- NULL: of the run as a whole
    request_id     TEXT REFERENCES requests,              -- NULL: of no single request
    t_ns           INTEGER NOT NULL,
    name           TEXT NOT NULL,                         -- with its unit: pause_s, kv_blocks_free
    value          REAL,                                  -- NULL: what was seen is a text, or why there is no number
    text           TEXT,
    CHECK (value IS NOT NULL OR text IS NOT NULL)
) STRICT;
CREATE INDEX observations_by_name ON observations (name, trial_id);

-- Memory over time. Raw samples and the windows in which trials ran, both on the session's
-- perf_counter; baseline, peak and delta of a trial are derived from the two.

CREATE TABLE memory_samples (
    session_id  INTEGER NOT NULL REFERENCES sessions,
    t_ns        INTEGER NOT NULL,
    series      TEXT NOT NULL,     -- process_rss, nvml_device:0, nvml_process:0, torch_allocated:0 …
    used_bytes  INTEGER NOT NULL,
    total_bytes INTEGER            -- NULL: unknown, or without meaning
) STRICT;
CREATE INDEX memory_samples_by_time ON memory_samples (session_id, series, t_ns);

CREATE TABLE memory_windows (
    session_id INTEGER NOT NULL REFERENCES sessions,
    name       TEXT NOT NULL,      -- a trial's id, or what else was done then
    attempt    INTEGER NOT NULL,
    start_ns   INTEGER NOT NULL,
    end_ns     INTEGER NOT NULL,
    PRIMARY KEY (session_id, name, attempt)
) STRICT;

CREATE TABLE memory_monitors (     -- one a session: what was read, and what reading cost
    session_id    INTEGER PRIMARY KEY REFERENCES sessions,
    interval_s    REAL NOT NULL,
    reads         INTEGER NOT NULL,
    mean_ms       REAL,
    max_ms        REAL,
    busy_fraction REAL,
    reasons_json  TEXT NOT NULL    -- sampler → why it sees nothing
) STRICT;

-- Every context size that a probe tries, committed before it is tried. A row without an outcome is
-- being tried, or its run ended in the middle of it.

CREATE TABLE context_probes (
    probe_id    INTEGER PRIMARY KEY,
    session_id  INTEGER NOT NULL REFERENCES sessions,
    trial_id    TEXT NOT NULL REFERENCES trials,
    target      TEXT NOT NULL,     -- endpoint, quality, or the precision of a child process
    tokens      INTEGER NOT NULL,
    chosen_by   TEXT NOT NULL,
    outcome     TEXT,
    detail_json TEXT NOT NULL DEFAULT '{}'
) STRICT;

-- Load: a trial of many requests. Each request of it is an item, from 0; each sending of an item is
-- an attempt, a row; and the row after which nothing follows is final, one an item.

CREATE TABLE load_stretches (      -- one a start of the load generator, or of a batch job
    stretch_id    INTEGER PRIMARY KEY,
    trial_id      TEXT NOT NULL REFERENCES trials,
    session_id    INTEGER NOT NULL REFERENCES sessions,
    started_ns    INTEGER NOT NULL,
    ended_ns      INTEGER,         -- NULL: it was killed
    ended         TEXT,            -- done, stopped, or why it could not go on
    before_json   TEXT,            -- the server's counters before and after; NULL: none were there
    after_json    TEXT,
    generator_json TEXT,           -- what the generator says of itself: its lag, its load, outages
    state_json    TEXT             -- what a resume needs beyond the rows: a batch job's ids
) STRICT;

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
    em         REAL,                   -- NULL, with f1 and contains: the task has no score
    f1         REAL,
    contains   REAL,
    pred_norm  TEXT,
    gold_norm  TEXT,
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
    calibrated_json    TEXT NOT NULL   -- the calibrated rule's
) STRICT;

CREATE TABLE stages (                  -- of any experiment: what `kvlab kv` has done, and from what
    name          TEXT PRIMARY KEY,
    inputs_sha256 TEXT NOT NULL,
    done_utc      TEXT NOT NULL,
    forced        INTEGER NOT NULL DEFAULT 0,
    summary_json  TEXT                 -- of the analysis: the whole summary, for the report
) STRICT;
