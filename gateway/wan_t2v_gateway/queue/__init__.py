"""The durable queue: procrastinate, its workers and its keeper."""
