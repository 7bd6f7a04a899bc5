-- An answer to a task that kvlab cannot score has no score: what is wrong with it is known all the same.

CREATE TABLE scores_with_none (
    request_id TEXT PRIMARY KEY REFERENCES requests,
    em         REAL,                   -- NULL, with f1 and contains: the task has no score
    f1         REAL,
    contains   REAL,
    pred_norm  TEXT,
    gold_norm  TEXT,
    outcome    TEXT,                   -- taxonomy of an answer; NULL: nothing to remark
    scorer     TEXT NOT NULL
) STRICT;
INSERT INTO scores_with_none SELECT request_id, em, f1, contains, pred_norm, gold_norm, outcome, scorer FROM scores;
DROP TABLE scores;
ALTER TABLE scores_with_none RENAME TO scores;
