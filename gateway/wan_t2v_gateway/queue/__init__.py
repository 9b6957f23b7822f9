"""The durable queue: procrastinate, its workers and its lost-jobs check."""
