-- Jobs have a place in their queue, and queues a rate; a run knows the trace that it belongs to.
ALTER TABLE runs ADD COLUMN traceparent TEXT;

ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN lane TEXT;
ALTER TABLE jobs ADD COLUMN grouped TEXT;
DROP INDEX jobs_by_queue;
CREATE INDEX jobs_by_queue ON jobs (queue, priority DESC, number);

CREATE TABLE rates (
    queue     TEXT PRIMARY KEY,
    opened_us INTEGER NOT NULL,
    begun     INTEGER NOT NULL
) WITHOUT ROWID;
