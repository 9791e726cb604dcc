-- Steps that cross a queue: their jobs, who holds them, and what a worker must know.
ALTER TABLE steps ADD COLUMN queue TEXT;
ALTER TABLE steps ADD COLUMN job TEXT;
ALTER TABLE steps ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE steps ADD COLUMN progress TEXT;
CREATE INDEX steps_by_worker ON steps (worker)
    WHERE queue IS NOT NULL AND worker IS NOT NULL AND finished_us IS NULL;

CREATE TABLE jobs (
    number  INTEGER PRIMARY KEY,
    queue   TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    key     TEXT NOT NULL,
    attempt INTEGER NOT NULL
);
CREATE INDEX jobs_by_queue ON jobs (queue, number);

-- Who is told when a run has ended.
CREATE TABLE watchers (
    run_id  TEXT NOT NULL,
    session TEXT NOT NULL,
    PRIMARY KEY (run_id, session)
) WITHOUT ROWID;

ALTER TABLE inbox ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
