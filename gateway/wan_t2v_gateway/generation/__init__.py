"""From a queued job to a stored video."""
