-- The spine: one experiment a database, its runs, the planned trials, and every request made.
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
    attempts      INTEGER NOT NULL DEFAULT 0,
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
    UNIQUE (trial_id, attempt, arm)
) STRICT;
CREATE INDEX requests_by_trial ON requests (trial_id, attempt);

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
    server_reason     TEXT
) STRICT;

-- A request is answered or it failed: never both. (That it is never neither is checked when a
-- trial's transaction commits, since SQLite has no deferred checks.)
CREATE TRIGGER response_of_a_failure BEFORE INSERT ON responses
WHEN EXISTS (SELECT 1 FROM failures WHERE request_id = NEW.request_id)
BEGIN SELECT RAISE(ABORT, 'this request has failed'); END;

CREATE TRIGGER failure_of_a_response BEFORE INSERT ON failures
WHEN EXISTS (SELECT 1 FROM responses WHERE request_id = NEW.request_id)
BEGIN SELECT RAISE(ABORT, 'this request was answered'); END;
