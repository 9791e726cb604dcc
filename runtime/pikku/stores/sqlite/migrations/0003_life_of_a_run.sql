-- Children, pinned runs and forks; and what a run knew when it asked for a step.
ALTER TABLE runs ADD COLUMN parent TEXT;
ALTER TABLE runs ADD COLUMN parent_step TEXT;
ALTER TABLE runs ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN forked_from TEXT;
ALTER TABLE steps ADD COLUMN after INTEGER NOT NULL DEFAULT 0;

-- Signals in the order in which they came; `step` is the key of the wait that took one.
CREATE TABLE signals (
    number    INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL,
    signal_id TEXT NOT NULL,
    name      TEXT NOT NULL,
    payload   TEXT NOT NULL,
    at_us     INTEGER NOT NULL,
    step      TEXT
);
CREATE UNIQUE INDEX signals_by_id ON signals (run, signal_id);
CREATE INDEX signals_waiting ON signals (run, name, number) WHERE step IS NULL;

-- Which workflows a session can execute.
CREATE TABLE holds (
    name    TEXT NOT NULL,
    session TEXT NOT NULL,
    PRIMARY KEY (name, session)
) WITHOUT ROWID;
CREATE INDEX holds_by_session ON holds (session);
