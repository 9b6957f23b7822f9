"""The durable queue: procrastinate, and who looks after it."""
