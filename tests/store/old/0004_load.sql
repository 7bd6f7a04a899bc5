-- Load: a trial of many requests. Each request of it is an item, from 0; each sending of an item is
-- an attempt, a row; and the row after which nothing follows is final, one an item.

ALTER TABLE requests ADD COLUMN item INTEGER;       -- NULL: the trial has no items
ALTER TABLE requests ADD COLUMN final INTEGER CHECK (final IN (0, 1));
ALTER TABLE telemetry ADD COLUMN due_ns INTEGER;    -- when the request was to be sent

CREATE UNIQUE INDEX one_final_row_an_item ON requests (trial_id, item) WHERE final = 1;

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
