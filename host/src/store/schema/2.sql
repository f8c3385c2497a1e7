-- Releases and where they stand; which of them made what; state by release.

CREATE TABLE releases (
    digest        TEXT PRIMARY KEY,
    edition       INTEGER NOT NULL,  -- how often the row has changed; an older one never replaces it
    name          TEXT NOT NULL,
    version       TEXT NOT NULL,
    build         INTEGER NOT NULL,  -- 0; more for other bytes of the same version
    state         TEXT NOT NULL,
    why           TEXT NOT NULL,     -- of its state
    since_ms      INTEGER NOT NULL,  -- in its state
    place         TEXT,              -- where it was found last; none: part of the program
    presence      TEXT NOT NULL,     -- whether it is still there
    capabilities  TEXT NOT NULL,     -- JSON: what it wants
    approved      INTEGER NOT NULL,  -- 1: the operator knows what it wants
    proven        INTEGER NOT NULL,  -- 1: it has been active
    chosen        INTEGER NOT NULL,  -- 1: the operator wants it to serve, whatever is newer
    before        TEXT,              -- digest of the release that served when it came
    counts        TEXT NOT NULL      -- JSON: tasks and failures
) STRICT;
CREATE INDEX releases_by_name ON releases (name);

-- What the last attempt at a task ran on.
ALTER TABLE tasks ADD COLUMN release TEXT;

CREATE TABLE state_of_releases (
    job      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    release  TEXT NOT NULL,          -- digest
    key      TEXT NOT NULL,
    value    BLOB NOT NULL,
    PRIMARY KEY (job, release, key)
) STRICT;
INSERT INTO state_of_releases
    SELECT state.job, json_extract(jobs.release, '$.digest'), state.key, state.value
    FROM state JOIN jobs ON jobs.id = state.job;
DROP TABLE state;
ALTER TABLE state_of_releases RENAME TO state;
