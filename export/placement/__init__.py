"""What each GPU holds: memory, layouts, Triton configs. Uses checkpoint and graphs."""
