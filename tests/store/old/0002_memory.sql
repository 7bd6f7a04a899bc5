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
