-- add_run --
INSERT INTO runs (
    run_id, workflow, status, version, inline, run_attempt, owner, queued, tags, started_by,
    created_us, updated_us, parent, parent_step, depth, pinned, forked_from, traceparent, turn,
    deliveries
) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,0)

-- add_values --
INSERT INTO run_values (run, input) VALUES (?,?)

-- save_turn --
UPDATE runs SET turn = ?, deliveries = ?, updated_us = ? WHERE number = ?

-- save_run --
UPDATE runs SET
    status = ?, run_attempt = ?, owner = ?, queued = ?, turn = ?, turned_by = ?, deliveries = ?,
    updated_us = ?, finished_us = ?, cancel_us = ?, cancel_kind = ?, cancel_reason = ?, cancel_delivery = ?,
    suspend_reason = ?
WHERE number = ?

-- put_run --
UPDATE runs SET
    workflow = ?, version = ?, inline = ?, tags = ?, started_by = ?, created_us = ?, parent = ?,
    parent_step = ?, depth = ?, pinned = ?, forked_from = ?, traceparent = ?
WHERE number = ?

-- put_values --
UPDATE run_values SET input = ?, output = ?, error = ? WHERE run = ?

-- save_values --
UPDATE run_values SET output = ?, error = ? WHERE run = ?

-- add_step --
INSERT INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)

-- save_step --
UPDATE steps SET
    status = ?, attempt = ?, failures = ?, lost = ?, result = ?, error = ?, worker = ?, due_us = ?,
    started_us = ?, finished_us = ?, delivery = ?, queue = ?, job = ?, handled = ?, progress = ?
WHERE number = ?

-- save_input --
UPDATE steps SET input = ?, digest = ? WHERE number = ?

-- load_steps --
SELECT * FROM steps WHERE run = ? ORDER BY position, number

-- load_step --
SELECT * FROM steps WHERE run = ? AND key = ?

-- open_steps --
SELECT * FROM steps WHERE run = ? AND finished_us IS NULL ORDER BY position, number

-- drop_steps --
DELETE FROM steps WHERE run = ?

-- drop_run --
DELETE FROM runs WHERE number = ?

-- drop_values --
DELETE FROM run_values WHERE run = ?

-- drop_history --
DELETE FROM history WHERE run = ?

-- drop_signals --
DELETE FROM signals WHERE run = ?

-- knows_signal --
SELECT 1 FROM signals WHERE run = ? AND signal_id = ?

-- add_signal --
INSERT INTO signals (run, signal_id, name, payload, at_us, step) VALUES (?,?,?,?,?,?)

-- oldest_signal --
SELECT number, payload FROM signals WHERE run = ? AND name = ? AND step IS NULL
ORDER BY number LIMIT 1

-- take_signal --
UPDATE signals SET step = ? WHERE number = ?

-- give_signal_back --
UPDATE signals SET step = NULL WHERE run = ? AND step = ?

-- advertise --
INSERT OR IGNORE INTO holds VALUES (?,?)

-- drop_holds --
DELETE FROM holds WHERE session = ?

-- holders --
SELECT session FROM holds WHERE name = ?

-- owned_by --
SELECT run_id FROM runs WHERE owner = ?

-- jobs_of --
SELECT runs.run_id, steps.key FROM steps JOIN runs ON runs.number = steps.run
WHERE steps.worker = ? AND steps.queue IS NOT NULL AND steps.finished_us IS NULL LIMIT ?

-- append_history --
INSERT INTO history (run, kind, step, attempt, data, at_us) VALUES (?,?,?,?,?,?)

-- load_history --
SELECT kind, step, attempt, data, at_us FROM history
WHERE run = (SELECT number FROM runs WHERE run_id = ?) ORDER BY number

-- add_timer --
INSERT OR REPLACE INTO timers VALUES (?,?,?,?)

-- drop_timers --
DELETE FROM timers WHERE run_id = ?

-- drop_timer --
DELETE FROM timers WHERE due_us = ? AND run_id = ? AND key = ? AND kind = ?

-- due_timers --
SELECT due_us, run_id, key, kind FROM timers WHERE due_us <= ? ORDER BY due_us, run_id, key, kind
LIMIT ?

-- next_due --
SELECT min(due_us) FROM timers

-- enqueue --
INSERT INTO queue (queue, run_id) VALUES (?,?)

-- waiting --
SELECT number, run_id FROM queue WHERE queue = ? ORDER BY number LIMIT ?

-- dequeue --
DELETE FROM queue WHERE number = ?

-- push_job --
INSERT INTO jobs (queue, priority, grouped, lane, run_id, key, attempt) VALUES (?,?,?,?,?,?,?)

-- waiting_jobs --
SELECT number, coalesce(lane, queue), run_id, key, attempt FROM jobs WHERE queue = ?
ORDER BY priority DESC, number LIMIT ?

-- waiting_of_groups --
SELECT number, coalesce(lane, queue), run_id, key, attempt FROM jobs
WHERE queue = ? AND (grouped IS NULL OR grouped NOT IN (SELECT value FROM json_each(?)))
ORDER BY priority DESC, number LIMIT ?

-- has_jobs --
SELECT 1 FROM jobs WHERE queue = ? LIMIT 1

-- held_jobs --
SELECT queue, count(*) FROM steps INDEXED BY steps_by_worker
WHERE queue IS NOT NULL AND worker IS NOT NULL AND finished_us IS NULL
    AND (queue = ? OR substr(queue, 1, ?) = ?)
GROUP BY queue

-- window --
SELECT opened_us, begun FROM rates WHERE queue = ?

-- save_window --
INSERT OR REPLACE INTO rates VALUES (?,?,?)

-- count_jobs --
SELECT queue, count(*) FROM jobs GROUP BY queue

-- take_job --
DELETE FROM jobs WHERE number = ?

-- add_watcher --
INSERT OR IGNORE INTO watchers VALUES (?,?)

-- watchers --
SELECT session FROM watchers WHERE run_id = ?

-- drop_watchers --
DELETE FROM watchers WHERE run_id = ?

-- session_until --
SELECT expires_us FROM sessions WHERE session = ?

-- post --
INSERT INTO inbox (session, run_id, number, key, what, status, result, error, attempt)
VALUES (?,?,?,?,?,?,?,?,?)

-- has_mail --
SELECT 1 FROM inbox WHERE session = ? AND run_id = ? LIMIT 1

-- read_inbox --
SELECT run_id, number, key, what, status, result, error, attempt FROM inbox
WHERE session = ? ORDER BY number_in_inbox

-- empty_inbox --
DELETE FROM inbox WHERE session = ?

-- session_exists --
SELECT 1 FROM sessions WHERE session = ?

-- open_session --
INSERT INTO sessions VALUES (?,?) ON CONFLICT (session) DO UPDATE SET expires_us = excluded.expires_us

-- extend_session --
UPDATE sessions SET expires_us = ? WHERE session = ?

-- expired_sessions --
SELECT session FROM sessions WHERE expires_us < ?

-- drop_session --
DELETE FROM sessions WHERE session = ?

-- count_runs --
SELECT status, count(*) FROM runs WHERE substr(workflow, 1, 6) <> 'queue:' GROUP BY status

-- count_runs_of --
SELECT status, count(*) FROM runs WHERE workflow = ? GROUP BY status

-- sessions --
SELECT session, expires_us FROM sessions

-- queued --
SELECT run_id FROM queue

-- all_jobs --
SELECT run_id, key, attempt FROM jobs

-- all_timers --
SELECT run_id, key, kind FROM timers

-- look --
SELECT NULL, min(due_us) FROM timers
UNION ALL
SELECT 'mail', NULL WHERE EXISTS (SELECT 1 FROM inbox WHERE session = ?)
UNION ALL
SELECT value, NULL FROM json_each(?) WHERE
    EXISTS (SELECT 1 FROM queue WHERE queue.queue = value)
    OR value LIKE 'jobs:%' AND EXISTS (SELECT 1 FROM jobs WHERE jobs.queue = substr(value, 6))
