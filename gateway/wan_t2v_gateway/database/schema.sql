-- Applied at every start, under a lock; webhook_indexes.sql follows. It only adds, so that an older gateway's statements
-- still work. But one that does not know videos.folder must not run beside a newer one, nor after it: it looks for files
-- in the id's folder only, so it does not find those of a newer gateway, and leaves them in the store when it removes
-- their record.
CREATE TABLE IF NOT EXISTS owners (
    name text PRIMARY KEY,
    key_hash text UNIQUE,
    administrator boolean NOT NULL DEFAULT false,
    webhook_url text NOT NULL DEFAULT '',
    webhook_secret text NOT NULL,
    most_queued integer,
    most_seconds_a_day double precision,
    withdrawn_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS videos (
    id text PRIMARY KEY,
    owner text NOT NULL,
    status text NOT NULL DEFAULT 'queued',
    model text NOT NULL,
    fields jsonb NOT NULL,              -- of the request, in the server's types
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    completed_at timestamptz,
    expires_at timestamptz,
    progress jsonb NOT NULL DEFAULT '{}',
    preview bytea,
    error jsonb,
    metadata jsonb,
    bytes bigint NOT NULL DEFAULT 0,
    sha256 text,
    turn bigint NOT NULL,               -- fairness: see database/creation.py
    queue_job bigint,
    attempt integer NOT NULL DEFAULT 0, -- only the latest attempt may write
    crashes integer NOT NULL DEFAULT 0,
    cancel_requested_at timestamptz,
    remixed_from text,
    idempotency_key text,
    body_hash text,
    webhook_url text NOT NULL DEFAULT '',
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX IF NOT EXISTS videos_by_owner ON videos (owner, created_at, id);
CREATE INDEX IF NOT EXISTS videos_unfinished ON videos (status, turn) WHERE status IN ('queued', 'in_progress');
CREATE INDEX IF NOT EXISTS videos_by_time ON videos (created_at, id);
CREATE INDEX IF NOT EXISTS videos_last_turn ON videos (owner, turn);
CREATE INDEX IF NOT EXISTS videos_turn_served ON videos (turn) WHERE started_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS videos_completed ON videos (completed_at DESC, id) INCLUDE (bytes, expires_at)
    WHERE status = 'completed';
CREATE INDEX IF NOT EXISTS videos_expiring ON videos (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS videos_without_expiry ON videos (completed_at)
    WHERE expires_at IS NULL AND completed_at IS NOT NULL;  -- ended by an older gateway
CREATE INDEX IF NOT EXISTS videos_never_begun ON videos (owner, completed_at)
    WHERE status = 'cancelled' AND attempt = 0;

-- Places in the list of the last videos that each owner removed: who lists and removes asks for what comes after them.
CREATE TABLE IF NOT EXISTS removed_videos (
    id text PRIMARY KEY,
    owner text NOT NULL,
    created_at timestamptz NOT NULL,    -- of the video
    removed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS removed_videos_by_owner ON removed_videos (owner, removed_at);

CREATE TABLE IF NOT EXISTS video_events (
    id bigserial PRIMARY KEY,
    video_id text NOT NULL REFERENCES videos ON DELETE CASCADE,
    kind text NOT NULL,
    data jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS video_events_by_video ON video_events (video_id, id);

CREATE TABLE IF NOT EXISTS webhooks (
    id text PRIMARY KEY,                -- the `webhook-id`: one per video and event
    video_id text NOT NULL,
    owner text NOT NULL,
    url text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz
);
CREATE TABLE IF NOT EXISTS webhook_attempts (
    webhook_id text NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    result text NOT NULL
);
CREATE TABLE IF NOT EXISTS switches (name text PRIMARY KEY, value jsonb NOT NULL);

-- The owners' usage, kept when a video is removed: it has no prompt.
CREATE TABLE IF NOT EXISTS work (
    id bigserial PRIMARY KEY,
    owner text NOT NULL,
    status text NOT NULL,
    seconds double precision NOT NULL,  -- of generation, without pauses between attempts and the server's queue
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS work_by_owner ON work (owner, ended_at);

-- Columns that were added later. Checked first, since ALTER TABLE locks the table even if it changes nothing.
DO $$ BEGIN
    IF NOT EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = current_schema AND table_name = 'videos' AND column_name = 'lane'
    ) THEN
        ALTER TABLE owners ADD COLUMN most_running integer;
        ALTER TABLE owners ADD COLUMN class text NOT NULL DEFAULT 'standard';
        ALTER TABLE videos ADD COLUMN lane integer;            -- of an owner with most_running: see database/creation.py
        ALTER TABLE videos ADD COLUMN attempt_at timestamptz;  -- since when the attempt works; NULL while it waits
        ALTER TABLE videos ADD COLUMN worked_s double precision NOT NULL DEFAULT 0;  -- of attempts that were put back
    END IF;
    IF NOT EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = current_schema AND table_name = 'videos' AND column_name = 'trace'
    ) THEN
        ALTER TABLE videos ADD COLUMN trace jsonb NOT NULL DEFAULT '{}';  -- parent context of the job's spans
    END IF;
    IF NOT EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = current_schema AND table_name = 'videos' AND column_name = 'folders'
    ) THEN
        ALTER TABLE videos ADD COLUMN folder text;  -- of the finished files in the store; NULL in older records: the id
        ALTER TABLE videos ADD COLUMN folders text[] NOT NULL DEFAULT '{}';  -- of every attempt that stored files
        ALTER TABLE videos ADD COLUMN outage_s double precision NOT NULL DEFAULT 0;  -- waited for server and store
    END IF;
END $$;
