-- Applied after schema.sql, in a transaction of its own. An index that is there already locks its table all the same. An
-- older gateway that removes a video writes to webhooks and then to videos: if one transaction locked videos and then
-- webhooks, the two could wait for each other.
CREATE INDEX IF NOT EXISTS webhooks_by_video ON webhooks (video_id);
CREATE INDEX IF NOT EXISTS webhook_attempts_by_webhook ON webhook_attempts (webhook_id);
