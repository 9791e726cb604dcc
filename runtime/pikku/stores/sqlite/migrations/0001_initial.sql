-- One row a run, numbered as they come: the runs under way lie side by side, so that a batch of
-- commits touches few pages. `turn` and `deliveries` change with every commit, the rest rarely;
-- what may be long is kept apart, so that it is not written again and again.
CREATE TABLE runs (
    number          INTEGER PRIMARY KEY,
    run_id          TEXT NOT NULL UNIQUE,
    workflow        TEXT NOT NULL,
    status          TEXT NOT NULL,
    version         TEXT NOT NULL,
    inline          INTEGER NOT NULL,
    run_attempt     INTEGER NOT NULL,
    owner           TEXT,
    queued          INTEGER NOT NULL,
    turn            INTEGER NOT NULL,
    turned_by       TEXT,
    deliveries      INTEGER NOT NULL,
    tags            TEXT NOT NULL,
    started_by      TEXT,
    created_us      INTEGER NOT NULL,
    updated_us      INTEGER NOT NULL,
    finished_us     INTEGER,
    cancel_us       INTEGER,
    cancel_kind     TEXT,
    cancel_reason   TEXT,
    cancel_delivery INTEGER,
    suspend_reason  TEXT
);
CREATE INDEX runs_by_owner ON runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX runs_by_workflow ON runs (workflow, number);
CREATE INDEX runs_by_status ON runs (status, number);

CREATE TABLE run_values (
    run    INTEGER PRIMARY KEY,
    input  TEXT NOT NULL,
    output TEXT,
    error  TEXT
);

CREATE TABLE steps (
    number      INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    key         TEXT NOT NULL,
    position    INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    target      TEXT NOT NULL,
    status      TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    failures    INTEGER NOT NULL,
    lost        INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    input       TEXT,
    result      TEXT,
    error       TEXT,
    worker      TEXT,
    due_us      INTEGER,
    created_us  INTEGER NOT NULL,
    started_us  INTEGER,
    finished_us INTEGER,
    delivery    INTEGER
);
CREATE UNIQUE INDEX steps_by_run ON steps (run, key);

-- What the step records do not say: attempts that failed or were lost, requests, decisions.
CREATE TABLE history (
    number  INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    step    TEXT,
    attempt INTEGER,
    data    TEXT,
    at_us   INTEGER NOT NULL
);
CREATE INDEX history_by_run ON history (run);

CREATE TABLE timers (
    run_id TEXT NOT NULL,
    key    TEXT NOT NULL,
    kind   TEXT NOT NULL,
    due_us INTEGER NOT NULL,
    PRIMARY KEY (run_id, key, kind)
) WITHOUT ROWID;
CREATE INDEX timers_by_due ON timers (due_us);

CREATE TABLE queue (
    number INTEGER PRIMARY KEY,
    queue  TEXT NOT NULL,
    run_id TEXT NOT NULL
);
CREATE INDEX queue_by_name ON queue (queue, number);

-- The lease of a session covers every run that it owns.
CREATE TABLE sessions (
    session    TEXT PRIMARY KEY,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE inbox (
    number_in_inbox INTEGER PRIMARY KEY,
    session TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    number  INTEGER NOT NULL,
    key     TEXT NOT NULL,
    what    TEXT NOT NULL,
    status  TEXT,
    result  TEXT,
    error   TEXT
);
CREATE INDEX inbox_by_session ON inbox (session, run_id);
