"""The Triton side of each step; `pb_utils` comes in as an argument, so all of it runs in tests without a server."""
