"""Which passes of the experts a generation computes: profiles, the plan of its steps, and what is reused. No Triton."""
