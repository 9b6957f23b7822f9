"""One generation at a time: against diffusers, endpoint against endpoint, merged passes. Uses harness and baselines."""
