"""Keep one server serving: restart it, repair its models, end what hangs. Uses process."""
