-- Jobs have a place in their queue, and queues a rate; a run knows the trace that it belongs to.
ALTER TABLE {schema}.runs ADD COLUMN traceparent text;

ALTER TABLE {schema}.jobs ADD COLUMN priority smallint NOT NULL DEFAULT 0;
ALTER TABLE {schema}.jobs ADD COLUMN lane text;
ALTER TABLE {schema}.jobs ADD COLUMN grouped text;
DROP INDEX {schema}.jobs_by_queue;
CREATE INDEX jobs_by_queue ON {schema}.jobs (queue, priority DESC, number);

-- The row of a queue that has limits is locked while its jobs are claimed.
CREATE TABLE {schema}.rates (
    queue     text PRIMARY KEY,
    opened_us bigint NOT NULL,
    begun     bigint NOT NULL
) WITH (fillfactor = 50);
