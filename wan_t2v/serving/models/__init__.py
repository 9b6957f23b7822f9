"""One file per model of model_repository, and the parts of their requests. Uses every folder beside it."""
