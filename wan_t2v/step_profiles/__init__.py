"""Step profiles: which passes of the experts a generation computes, and which results it reuses. No Triton."""
