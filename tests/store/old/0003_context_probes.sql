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
