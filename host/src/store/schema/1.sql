-- Jobs, their tasks and files, the state of plugins, sessions and events.
-- A row with a `version` changes only if its version is the one that is known.

CREATE TABLE jobs (
    id          TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,
    state       TEXT NOT NULL,
    pause       TEXT,              -- JSON, while it is paused
    priority    INTEGER NOT NULL,
    pinned      INTEGER NOT NULL,  -- 1: kept however old it is
    key         TEXT UNIQUE,       -- idempotency key of its submission
    session     TEXT,
    request     TEXT NOT NULL,     -- JSON, as it was checked
    release     TEXT NOT NULL,     -- JSON: name, version and digest of its pin
    canceling   INTEGER NOT NULL,  -- 1: somebody wants its end
    planned     INTEGER NOT NULL,  -- 1: all tasks are known
    tasks       INTEGER NOT NULL,
    done        INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    retries     INTEGER NOT NULL,  -- used of its budget
    failure     TEXT,              -- JSON
    created_ms  INTEGER NOT NULL,
    started_ms  INTEGER,
    ended_ms    INTEGER,
    content     TEXT               -- JSON: scene and dependencies with their hashes
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, ended_ms);

CREATE TABLE job_order (
    job    TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    after  TEXT NOT NULL,
    PRIMARY KEY (job, after)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_order_by_after ON job_order (after);

CREATE TABLE tasks (
    job       TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL,    -- in the plan, from 0
    version   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    state     TEXT NOT NULL,
    frame     INTEGER,
    after     TEXT NOT NULL,       -- JSON: names of tasks
    payload   TEXT NOT NULL,
    attempts  INTEGER NOT NULL,
    failures  INTEGER NOT NULL,
    seconds   REAL,                -- of its last attempt
    failure   TEXT,                -- JSON, of its last attempt
    PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

-- Files that were checked and are whole on disk.
CREATE TABLE outputs (
    path    TEXT PRIMARY KEY,
    job     TEXT NOT NULL,
    task    TEXT,
    step    TEXT,                  -- what it was rendered from; none: it was kept
    size    INTEGER NOT NULL,
    sha256  TEXT,
    aside   TEXT                   -- where it is until it is renamed
) STRICT;
CREATE INDEX outputs_by_job ON outputs (job, task);
CREATE INDEX outputs_by_step ON outputs (step);

CREATE TABLE state (
    job      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    key      TEXT NOT NULL,
    value    BLOB NOT NULL,
    release  TEXT NOT NULL,        -- who wrote it
    PRIMARY KEY (job, key)
) STRICT;

CREATE TABLE sessions (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    cursor   INTEGER NOT NULL,     -- the last event that its client has seen
    seen_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY,
    time_ms  INTEGER NOT NULL,
    job      TEXT,
    body     TEXT NOT NULL         -- JSON
) STRICT;
CREATE INDEX events_by_job ON events (job, seq) WHERE job IS NOT NULL;

CREATE TABLE facts (
    name   TEXT PRIMARY KEY,
    value  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Events up to this one may have been collected.
INSERT INTO facts VALUES ('collected', 0);
-- The last event there ever was, also when it has been collected.
INSERT INTO facts VALUES ('last', 0);
