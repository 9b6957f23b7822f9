"""Keep one server serving: restart it, reload its models, kill hanging processes. Uses process."""
