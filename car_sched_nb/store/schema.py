"""The tables, and the numbered steps that lead to them.

Instants are UTC microseconds, durations microseconds. A task's row carries what admission checks:
`enabled`, `revision`, `version` and `cursor`, its last settled slot. What else defines it is JSON.
"""

from __future__ import annotations

APPLICATION_ID = 0x63617231  # "car1"

STEPS = (
    """
    CREATE TABLE tasks (
        id TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, definition TEXT NOT NULL,
        enabled INTEGER NOT NULL DEFAULT 1, revision INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 0,
        cursor TEXT NOT NULL DEFAULT '', next_at INTEGER, created_at INTEGER NOT NULL,
        anchored_at INTEGER NOT NULL, fire_at INTEGER, last_run_at INTEGER, run_count INTEGER NOT NULL DEFAULT 0,
        deleted_at INTEGER
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX task_by_name ON tasks (namespace, name) WHERE deleted_at IS NULL;

    CREATE TABLE executions (
        seq INTEGER PRIMARY KEY, execution_id TEXT NOT NULL UNIQUE, occurrence_id TEXT NOT NULL,
        task_id TEXT NOT NULL, trigger TEXT NOT NULL, slot TEXT NOT NULL, attempt INTEGER NOT NULL,
        status TEXT NOT NULL, wait_reason TEXT, scheduled_at INTEGER NOT NULL, started_at INTEGER,
        finished_at INTEGER, duration INTEGER, slots INTEGER NOT NULL, cause TEXT NOT NULL, reason TEXT,
        version INTEGER NOT NULL, params TEXT, runner TEXT NOT NULL, executor TEXT NOT NULL, owner TEXT,
        answer TEXT, error TEXT, error_type TEXT, turns INTEGER, tool_calls INTEGER, tokens_in INTEGER,
        tokens_out INTEGER, cost REAL, model TEXT
    );
    -- The second guard: whatever the cursor says, an occurrence has one live or completed row.
    CREATE UNIQUE INDEX guard ON executions (occurrence_id) WHERE status IN ('waiting', 'running', 'completed');
    CREATE INDEX live ON executions (task_id) WHERE status IN ('waiting', 'running');
    CREATE INDEX failed ON executions (finished_at) WHERE status IN ('failed', 'timed_out', 'interrupted');
    CREATE INDEX by_task ON executions (task_id, seq);

    CREATE TABLE outputs (execution_id TEXT PRIMARY KEY, text TEXT, traceback TEXT, display TEXT, path TEXT)
        WITHOUT ROWID;
    CREATE TABLE owners (id TEXT PRIMARY KEY, name TEXT NOT NULL, pid INTEGER NOT NULL, started_at INTEGER NOT NULL,
        ended_at INTEGER) WITHOUT ROWID;
    CREATE TABLE armed (owner TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (owner, task_id)) WITHOUT ROWID;
    """,
    # Policies: executions that wait for an instant, are asked to stop by another owner, or follow others.
    """
    ALTER TABLE tasks ADD COLUMN until_at INTEGER;
    ALTER TABLE tasks ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE executions ADD COLUMN not_before INTEGER;
    ALTER TABLE executions ADD COLUMN cancel_asked INTEGER;
    ALTER TABLE executions ADD COLUMN upstream TEXT;
    """,
    # Runners: when what was printed, what an agent and its tools said, and files that were made. Notices: the tasks
    # that are failing, and the messages that have not reached everybody yet.
    """
    ALTER TABLE outputs ADD COLUMN marks TEXT;
    ALTER TABLE outputs ADD COLUMN transcript TEXT;
    ALTER TABLE outputs ADD COLUMN artifact TEXT;
    CREATE INDEX by_time ON executions (scheduled_at);
    CREATE TABLE settings (namespace TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (namespace, name)) WITHOUT ROWID;
    CREATE INDEX failing ON tasks (failures) WHERE failures > 0;
    UPDATE tasks SET failures = 1 WHERE failures = 0 AND (SELECT e.status FROM executions e INDEXED BY by_task
        WHERE e.task_id = tasks.id AND e.status NOT IN ('waiting', 'running', 'missed', 'skipped', 'cancelled')
        ORDER BY e.seq DESC LIMIT 1) IN ('failed', 'timed_out');
    CREATE TABLE deliveries (id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, owner TEXT NOT NULL, task TEXT NOT NULL,
        task_id TEXT NOT NULL, execution_id TEXT NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL,
        at INTEGER NOT NULL, due_at INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
        done TEXT NOT NULL DEFAULT '[]');
    """,
    # Retention: the last slot that ran and whose row is gone, contents of watched paths whose rows are gone
    # and whose ids must not come again, and what each maintenance has removed. Files have a setting of their own.
    """
    ALTER TABLE tasks ADD COLUMN removed_to INTEGER;
    CREATE TABLE removed_contents (occurrence_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE maintenance (at INTEGER PRIMARY KEY, executions INTEGER NOT NULL, files INTEGER NOT NULL,
        bytes INTEGER NOT NULL, rules TEXT NOT NULL);
    UPDATE settings SET name = 'keep_files' WHERE name = 'keep';
    """,
)
"""Step n leads from schema version n to n + 1; each runs in one transaction with its version."""

VERSION = len(STEPS)
