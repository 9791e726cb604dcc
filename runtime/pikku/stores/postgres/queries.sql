-- begin --
WITH clock AS (
    SELECT coalesce(
        %(now_us)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    ) AS now_us
), marked AS (
    INSERT INTO {schema}.batches AS batch (session, made, last, at_us)
    SELECT %(session)s, 1, %(batch)s, now_us FROM clock
    ON CONFLICT (session) DO UPDATE
    SET made = batch.made + 1, last = excluded.last, at_us = excluded.at_us
)
SELECT now_us,
    (SELECT true FROM {schema}.sessions WHERE session = %(session)s FOR KEY SHARE),
    (SELECT made FROM {schema}.batches WHERE session = %(session)s)
FROM clock

-- look --
SELECT coalesce(%(now_us)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
    (SELECT true FROM {schema}.sessions WHERE session = %(session)s),
    (SELECT made FROM {schema}.batches WHERE session = %(session)s)

-- mark --
INSERT INTO {schema}.batches AS batch (session, made, last, at_us) VALUES (%s, 1, %s, %s)
ON CONFLICT (session) DO UPDATE
SET made = batch.made + 1, last = excluded.last, at_us = excluded.at_us

-- last_batch --
INSERT INTO {schema}.batches AS batch (session, made, last, at_us)
VALUES (%s, 0, 0, coalesce(%s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
ON CONFLICT (session) DO UPDATE SET last = batch.last
RETURNING last

-- forget_batches --
DELETE FROM {schema}.batches AS batch
WHERE at_us < %s AND NOT EXISTS (
    SELECT 1 FROM {schema}.sessions AS session WHERE session.session = batch.session
)

-- hold_session --
SELECT 1 FROM {schema}.sessions WHERE session = %s FOR KEY SHARE

-- lock_runs --
SELECT {runs} FROM {schema}.runs WHERE run_id = ANY(%s::text[]) ORDER BY run_id FOR NO KEY UPDATE

-- begin_known --
WITH clock AS (
    SELECT coalesce(
        %(now_us)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    ) AS now_us
), marked AS (
    INSERT INTO {schema}.batches AS batch (session, made, last, at_us)
    SELECT %(session)s, 1, %(batch)s, now_us FROM clock
    ON CONFLICT (session) DO UPDATE
    SET made = batch.made + 1, last = excluded.last, at_us = excluded.at_us
), begun AS MATERIALIZED (
    SELECT now_us,
        (SELECT true FROM {schema}.sessions WHERE session = %(session)s FOR KEY SHARE) AS alive,
        (SELECT made FROM {schema}.batches WHERE session = %(session)s) AS made
    FROM clock
)
SELECT now_us, alive, made, run_id, touched
FROM begun CROSS JOIN {schema}.runs WHERE number = ANY(%(numbers)s::bigint[]) ORDER BY run_id
FOR NO KEY UPDATE OF runs

-- lock_numbered --
SELECT {runs} FROM {schema}.runs WHERE number = ANY(%s::bigint[]) ORDER BY run_id FOR NO KEY UPDATE

-- lock_owned --
SELECT {runs} FROM {schema}.runs WHERE owner = %s ORDER BY number LIMIT %s FOR NO KEY UPDATE

-- new_numbers --
SELECT nextval(pg_get_serial_sequence('{schema}.runs', 'number')) FROM generate_series(1, %s)

-- add_runs --
WITH added AS (
    INSERT INTO {schema}.runs (
        number, run_id, workflow, status, version, inline, run_attempt, owner, queued, tags, started_by,
        created_us, updated_us, parent, parent_step, depth, pinned, forked_from, traceparent
    )
    SELECT
        number, run_id, workflow, status, version, inline, run_attempt, owner, queued,
        ARRAY(SELECT jsonb_array_elements_text(tags::jsonb)), started_by, created_us, updated_us, parent,
        parent_step, depth, pinned, forked_from, traceparent
    FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::boolean[], %s::integer[],
        %s::text[], %s::boolean[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[],
        %s::text[], %s::integer[], %s::boolean[], %s::text[], %s::text[]
    ) AS added (
        number, run_id, workflow, status, version, inline, run_attempt, owner, queued, tags, started_by,
        created_us, updated_us, parent, parent_step, depth, pinned, forked_from, traceparent
    )
)
INSERT INTO {schema}.run_values (run, input) SELECT * FROM unnest(%s::bigint[], %s::text[])

-- save_turns --
WITH turned AS (
    UPDATE {schema}.runs AS run
    SET touched = saved.touched, turn = saved.turn, deliveries = saved.deliveries,
        updated_us = saved.updated_us
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS saved (number, touched, turn, deliveries, updated_us)
    WHERE run.number = saved.number
), saved AS (
    UPDATE {schema}.steps AS step SET
        status = saved.status, attempt = saved.attempt, failures = saved.failures, lost = saved.lost,
        result = saved.result, error = saved.error, worker = saved.worker, due_us = saved.due_us,
        started_us = saved.started_us, finished_us = saved.finished_us, delivery = saved.delivery,
        queue = saved.queue, job = saved.job, handled = saved.handled, progress = saved.progress
    FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
        %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
        %s::text[], %s::boolean[], %s::text[]
    ) AS saved (
        run, key, status, attempt, failures, lost, result, error, worker, due_us, started_us,
        finished_us, delivery, queue, job, handled, progress
    )
    WHERE step.run = saved.run AND step.key = saved.key
)
INSERT INTO {schema}.steps SELECT * FROM unnest(
    %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[],
    %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
    %s::boolean[], %s::text[], %s::bigint[]
)

-- save_runs --
WITH valued AS (
    UPDATE {schema}.run_values AS kept SET output = saved.output, error = saved.error
    FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS saved (run, output, error)
    WHERE kept.run = saved.run
)
UPDATE {schema}.runs AS run
SET touched = saved.touched, status = saved.status, run_attempt = saved.run_attempt,
    owner = saved.owner, queued = saved.queued, turn = saved.turn, turned_by = saved.turned_by,
    deliveries = saved.deliveries, updated_us = saved.updated_us, finished_us = saved.finished_us,
    cancel_us = saved.cancel_us, cancel_kind = saved.cancel_kind,
    cancel_reason = saved.cancel_reason, cancel_delivery = saved.cancel_delivery,
    suspend_reason = saved.suspend_reason
FROM unnest(
    %s::bigint[], %s::bigint[], %s::text[], %s::integer[], %s::text[], %s::boolean[], %s::bigint[],
    %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
    %s::bigint[], %s::text[]
) AS saved (
    number, touched, status, run_attempt, owner, queued, turn, turned_by, deliveries, updated_us,
    finished_us, cancel_us, cancel_kind, cancel_reason, cancel_delivery, suspend_reason
)
WHERE run.number = saved.number

-- put_run --
UPDATE {schema}.runs SET
    workflow = %s, version = %s, inline = %s, tags = %s::text[], started_by = %s, created_us = %s,
    parent = %s, parent_step = %s, depth = %s, pinned = %s, forked_from = %s, traceparent = %s
WHERE number = %s

-- put_values --
INSERT INTO {schema}.run_values (run, input, output, error) VALUES (%s, %s, %s, %s)
ON CONFLICT (run) DO UPDATE SET
    input = excluded.input, output = excluded.output, error = excluded.error

-- load_values --
SELECT run, input, output, error FROM {schema}.run_values WHERE run = ANY(%s::bigint[])

-- load_steps --
SELECT {steps} FROM {schema}.steps AS step WHERE run = ANY(%s::bigint[]) ORDER BY run, position, kind <> 'patch', key

-- open_steps --
SELECT {steps} FROM {schema}.steps AS step WHERE run = %s AND finished_us IS NULL
ORDER BY position, kind <> 'patch', key

-- find_steps --
SELECT {steps} FROM unnest(%s::bigint[], %s::text[]) AS wanted (run, key)
JOIN {schema}.steps AS step ON step.run = wanted.run AND step.key = wanted.key

-- find_steps_by_run_id --
SELECT {steps} FROM unnest(%s::text[], %s::text[]) AS wanted (run_id, key)
JOIN {schema}.runs AS run ON run.run_id = wanted.run_id
JOIN {schema}.steps AS step ON step.run = run.number AND step.key = wanted.key

-- save_input --
UPDATE {schema}.steps SET input = %s, digest = %s WHERE run = %s AND key = %s

-- drop_steps --
DELETE FROM {schema}.steps WHERE run = %s

-- drop_run --
WITH
    of_history AS (DELETE FROM {schema}.history WHERE run = %(run)s),
    of_signals AS (DELETE FROM {schema}.signals WHERE run = %(run)s),
    of_values AS (DELETE FROM {schema}.run_values WHERE run = %(run)s),
    of_timers AS (DELETE FROM {schema}.timers WHERE run = %(run)s),
    of_watchers AS (DELETE FROM {schema}.watchers WHERE run = %(run)s),
    of_queue AS (DELETE FROM {schema}.queue WHERE run = %(run)s),
    of_jobs AS (DELETE FROM {schema}.jobs WHERE run = %(run)s)
DELETE FROM {schema}.runs WHERE number = %(run)s

-- knows_signal --
SELECT 1 FROM {schema}.signals WHERE run = %s AND signal_id = %s

-- add_signal --
INSERT INTO {schema}.signals (run, signal_id, name, payload, at_us, step)
VALUES (%s, %s, %s, %s, %s, %s)

-- take_signal --
UPDATE {schema}.signals SET step = %s
WHERE number = (
    SELECT number FROM {schema}.signals WHERE run = %s AND name = %s AND step IS NULL
    ORDER BY number LIMIT 1
)
RETURNING payload

-- give_signal_back --
UPDATE {schema}.signals SET step = NULL WHERE run = %s AND step = %s

-- append_history --
INSERT INTO {schema}.history (run, kind, step, attempt, data, at_us)
SELECT * FROM unnest(
    %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[]
)

-- load_history --
SELECT kind, step, attempt, data, at_us FROM {schema}.history
WHERE run = (SELECT number FROM {schema}.runs WHERE run_id = %s) ORDER BY number

-- drop_timers --
DELETE FROM {schema}.timers WHERE run = ANY(%s::bigint[])

-- add_timers --
INSERT INTO {schema}.timers (due_us, run, key, kind)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[])
ON CONFLICT (run, key, kind) DO UPDATE SET due_us = excluded.due_us

-- take_due_timers --
WITH taken AS MATERIALIZED (
    SELECT due.run, due.key, due.kind
    FROM {schema}.timers AS due JOIN {schema}.runs AS run ON run.number = due.run
    WHERE due.due_us <= %s ORDER BY due.due_us LIMIT %s
    FOR UPDATE OF due SKIP LOCKED FOR NO KEY UPDATE OF run SKIP LOCKED
)
DELETE FROM {schema}.timers AS timer USING taken
WHERE timer.run = taken.run AND timer.key = taken.key AND timer.kind = taken.kind
RETURNING timer.due_us, timer.run, timer.key, timer.kind

-- next_due --
SELECT min(due_us) FROM {schema}.timers

-- enqueue --
INSERT INTO {schema}.queue (queue, run) SELECT * FROM unnest(%s::text[], %s::bigint[])

-- claim_runs --
WITH waiting AS (
    SELECT waiting.number AS place, {runs_of_run}
    FROM {schema}.queue AS waiting JOIN {schema}.runs AS run ON run.number = waiting.run
    WHERE waiting.queue = %(queue)s ORDER BY waiting.number LIMIT %(count)s
    FOR UPDATE OF waiting SKIP LOCKED FOR NO KEY UPDATE OF run SKIP LOCKED
), taken AS (
    DELETE FROM {schema}.queue USING waiting WHERE queue.number = waiting.place
)
SELECT * FROM waiting ORDER BY place

-- push_jobs --
INSERT INTO {schema}.jobs (queue, priority, grouped, lane, run, key, attempt)
SELECT * FROM unnest(
    %s::text[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[]
)

-- claim_jobs --
WITH waiting AS (
    SELECT waiting.number AS place, waiting.key AS job_key, waiting.attempt AS job_attempt,
        coalesce(waiting.lane, waiting.queue) AS lane, waiting.priority AS priority, {runs_of_run}
    FROM {schema}.jobs AS waiting JOIN {schema}.runs AS run ON run.number = waiting.run
    WHERE waiting.queue = %(queue)s ORDER BY waiting.priority DESC, waiting.number LIMIT %(count)s
    FOR UPDATE OF waiting SKIP LOCKED FOR NO KEY UPDATE OF run SKIP LOCKED
), taken AS (
    DELETE FROM {schema}.jobs USING waiting WHERE jobs.number = waiting.place
)
SELECT * FROM waiting ORDER BY priority DESC, place

-- waiting_of_groups --
SELECT waiting.number AS place, waiting.key AS job_key, waiting.attempt AS job_attempt,
    coalesce(waiting.lane, waiting.queue) AS lane, waiting.priority AS priority, {runs_of_run}
FROM {schema}.jobs AS waiting JOIN {schema}.runs AS run ON run.number = waiting.run
WHERE waiting.queue = %(queue)s
    AND (waiting.grouped IS NULL OR waiting.grouped <> ALL(%(full)s::text[]))
ORDER BY waiting.priority DESC, waiting.number LIMIT %(count)s
FOR UPDATE OF waiting SKIP LOCKED FOR NO KEY UPDATE OF run SKIP LOCKED

-- take_jobs --
DELETE FROM {schema}.jobs WHERE number = ANY(%s::bigint[])

-- has_jobs --
SELECT 1 FROM {schema}.jobs WHERE queue = %s LIMIT 1

-- lock_window --
INSERT INTO {schema}.rates AS rate (queue, opened_us, begun) VALUES (%s, 0, 0)
ON CONFLICT (queue) DO UPDATE SET queue = rate.queue
RETURNING opened_us, begun

-- save_window --
UPDATE {schema}.rates SET opened_us = %s, begun = %s WHERE queue = %s

-- held_jobs --
SELECT queue, count(*) FROM {schema}.steps
WHERE queue IS NOT NULL AND worker IS NOT NULL AND finished_us IS NULL
    AND split_part(queue, '/', 1) = %s
GROUP BY queue

-- count_jobs --
SELECT queue, count(*) FROM {schema}.jobs GROUP BY queue

-- filled --
SELECT queue FROM (
    SELECT wanted.queue, CASE WHEN wanted.queue LIKE 'jobs:%%'
        THEN EXISTS (SELECT 1 FROM {schema}.jobs WHERE jobs.queue = substr(wanted.queue, 6))
        ELSE EXISTS (SELECT 1 FROM {schema}.queue WHERE queue.queue = wanted.queue)
    END AS filled
    FROM unnest(%s::text[]) AS wanted (queue)
) AS looked WHERE filled

-- add_watchers --
INSERT INTO {schema}.watchers (run, session) SELECT * FROM unnest(%s::bigint[], %s::text[])
ON CONFLICT DO NOTHING

-- find_watchers --
SELECT run.run_id, watchers.session
FROM {schema}.runs AS run JOIN {schema}.watchers ON watchers.run = run.number
WHERE run.run_id = ANY(%s::text[])

-- drop_watchers --
DELETE FROM {schema}.watchers WHERE run = ANY(%s::bigint[])

-- post --
INSERT INTO {schema}.inbox (session, run_id, number, key, what, status, result, error, attempt)
SELECT * FROM unnest(
    %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::bigint[]
)

-- has_mail --
SELECT DISTINCT run_id FROM {schema}.inbox WHERE session = %s

-- read_inbox --
WITH mail AS (DELETE FROM {schema}.inbox WHERE session = %s RETURNING *)
SELECT run_id, number, key, what, status, result, error, attempt FROM mail ORDER BY place

-- session_until --
SELECT expires_us FROM {schema}.sessions WHERE session = %s

-- hold_live_session --
SELECT 1 FROM {schema}.sessions WHERE session = %s AND expires_us >= %s FOR KEY SHARE

-- beat --
UPDATE {schema}.sessions
SET expires_us = %s + coalesce(%s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
WHERE session = %s

-- open_session --
INSERT INTO {schema}.sessions (expires_us, session)
VALUES (
    %s + coalesce(%s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), %s
)
ON CONFLICT (session) DO UPDATE SET expires_us = excluded.expires_us

-- expired_sessions --
SELECT session FROM {schema}.sessions WHERE expires_us < %s ORDER BY session
FOR UPDATE SKIP LOCKED

-- owned_by --
SELECT run_id FROM {schema}.runs WHERE owner = %s

-- jobs_of --
SELECT run.run_id, step.key
FROM {schema}.steps AS step JOIN {schema}.runs AS run ON run.number = step.run
WHERE step.worker = %s AND step.queue IS NOT NULL AND step.finished_us IS NULL
ORDER BY run.run_id LIMIT %s

-- drop_session --
WITH
    of_holds AS (DELETE FROM {schema}.holds WHERE session = %(session)s),
    of_inbox AS (DELETE FROM {schema}.inbox WHERE session = %(session)s)
DELETE FROM {schema}.sessions WHERE session = %(session)s

-- drop_holds --
DELETE FROM {schema}.holds WHERE session = %s

-- advertise --
INSERT INTO {schema}.holds (name, session) SELECT name, %s FROM unnest(%s::text[]) AS held (name)
ON CONFLICT DO NOTHING

-- holders --
SELECT session FROM {schema}.holds WHERE name = %s ORDER BY session

-- notify --
SELECT pg_notify(%s, %s)

-- load_run --
SELECT {whole_runs} FROM {schema}.runs AS run LEFT JOIN {schema}.run_values AS kept ON kept.run = run.number
WHERE run.run_id = %s

-- find_run --
SELECT {whole_runs} FROM {schema}.runs AS run LEFT JOIN {schema}.run_values AS kept ON kept.run = run.number
WHERE run.run_id = %(run_id)s

-- list_runs --
SELECT {whole_runs} FROM {schema}.runs AS run LEFT JOIN {schema}.run_values AS kept ON kept.run = run.number

-- count_runs --
SELECT status, count(*) FROM {schema}.runs WHERE workflow NOT LIKE 'queue:%%' GROUP BY status

-- count_runs_of --
SELECT status, count(*) FROM {schema}.runs WHERE workflow = %s GROUP BY status

-- sessions --
SELECT session, expires_us FROM {schema}.sessions

-- queued --
SELECT run.run_id FROM {schema}.queue JOIN {schema}.runs AS run ON run.number = queue.run

-- all_jobs --
SELECT run.run_id, jobs.key, jobs.attempt
FROM {schema}.jobs JOIN {schema}.runs AS run ON run.number = jobs.run

-- all_timers --
SELECT run.run_id, timers.key, timers.kind
FROM {schema}.timers JOIN {schema}.runs AS run ON run.number = timers.run

-- start_run --
WITH clock AS (
    SELECT coalesce(
        %(now_us)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    ) AS now_us
), added AS (
    INSERT INTO {schema}.runs (
        run_id, workflow, status, version, inline, queued, tags, started_by, created_us, updated_us,
        pinned, traceparent
    )
    SELECT
        %(run_id)s::text, %(workflow)s::text, 'running', %(version)s::text, %(inline)s::boolean,
        %(delay_us)s::bigint IS NULL, %(tags)s::text[], %(started_by)s::text, now_us, now_us,
        %(pinned)s::boolean, %(traceparent)s::text
    FROM clock
    ON CONFLICT (run_id) DO NOTHING
    RETURNING number, created_us
), valued AS (
    INSERT INTO {schema}.run_values (run, input) SELECT number, %(input)s::text FROM added
), queued AS (
    INSERT INTO {schema}.queue (queue, run)
    SELECT %(queue)s::text, number FROM added WHERE %(delay_us)s::bigint IS NULL
), timed AS (
    INSERT INTO {schema}.timers (due_us, run, key, kind)
    SELECT created_us + %(delay_us)s::bigint, number, '', 'start' FROM added
    WHERE %(delay_us)s::bigint IS NOT NULL
    UNION ALL
    SELECT created_us + coalesce(%(delay_us)s::bigint, 0) + %(timeout_us)s::bigint, number, '', 'timeout'
    FROM added WHERE %(timeout_us)s::bigint IS NOT NULL
), said AS (
    SELECT pg_notify(%(channel)s::text, %(queue)s::text) FROM added
    WHERE %(channel)s::text IS NOT NULL AND %(delay_us)s::bigint IS NULL
)
SELECT (SELECT count(*) FROM added), (SELECT count(*) FROM said)
