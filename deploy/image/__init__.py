"""Programs that run inside the image: at its build, in the plans Job, in init containers, and as the server."""
