"""Programs that run inside the image: at its build, in the Job that builds plans, before the server starts."""
