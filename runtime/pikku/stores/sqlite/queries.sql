-- add_run --
INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)

-- save_turn --
UPDATE runs SET turn = ?, deliveries = ?, updated_us = ? WHERE run_id = ?

-- save_run --
UPDATE runs SET
    status = ?, output = ?, error = ?, run_attempt = ?, owner = ?, queued = ?, turn = ?,
    deliveries = ?, updated_us = ?, finished_us = ?, cancel_us = ?, cancel_kind = ?,
    cancel_reason = ?, cancel_delivery = ?, suspend_reason = ?
WHERE run_id = ?

-- save_step --
INSERT INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (run_id, key) DO UPDATE SET
    status = excluded.status, attempt = excluded.attempt, failures = excluded.failures,
    lost = excluded.lost, result = excluded.result, error = excluded.error,
    worker = excluded.worker, due_us = excluded.due_us, started_us = excluded.started_us,
    finished_us = excluded.finished_us, delivery = excluded.delivery

-- load_steps --
SELECT * FROM steps WHERE run_id = ? ORDER BY position

-- append_history --
INSERT INTO history (run_id, kind, step, attempt, data, at_us) VALUES (?,?,?,?,?,?)

-- load_history --
SELECT kind, step, attempt, data, at_us FROM history WHERE run_id = ? ORDER BY id

-- add_timer --
INSERT OR REPLACE INTO timers VALUES (?,?,?,?)

-- drop_timers --
DELETE FROM timers WHERE run_id = ?

-- drop_timer --
DELETE FROM timers WHERE run_id = ? AND key = ? AND kind = ?

-- due_timers --
SELECT due_us, run_id, key, kind FROM timers WHERE due_us <= ? ORDER BY due_us, run_id, key LIMIT ?

-- next_due --
SELECT min(due_us) FROM timers

-- enqueue --
INSERT INTO queue (queue, run_id) VALUES (?,?)

-- waiting --
SELECT id, run_id FROM queue WHERE queue = ? ORDER BY id LIMIT ?

-- dequeue --
DELETE FROM queue WHERE id = ?

-- post --
INSERT INTO inbox (session, run_id, number, key, what, status, result, error)
VALUES (?,?,?,?,?,?,?,?)

-- has_mail --
SELECT 1 FROM inbox WHERE session = ? AND run_id = ? LIMIT 1

-- read_inbox --
SELECT run_id, number, key, what, status, result, error FROM inbox WHERE session = ? ORDER BY id

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

-- runs_of --
SELECT * FROM runs WHERE owner = ? LIMIT ?

-- load_run --
SELECT * FROM runs WHERE run_id = ?

-- count_runs --
SELECT status, count(*) FROM runs GROUP BY status

-- list_runs --
SELECT * FROM runs
WHERE (:workflow IS NULL OR workflow = :workflow)
  AND (:status IS NULL OR status = :status)
  AND (:before_us IS NULL OR created_us < :before_us)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
ORDER BY created_us DESC, run_id
LIMIT :limit
