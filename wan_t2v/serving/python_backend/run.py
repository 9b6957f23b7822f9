"""The run directory of the server that a model's process belongs to."""

import os

from wan_t2v.operate.run_directory import RunDirectory, chosen_path
from wan_t2v.serving.python_backend.parameters import ModelParameters


def server_run_directory(parameters: ModelParameters) -> RunDirectory:
    """Open the directory of the parameter `run_directory`, else of the environment. Raises RunDirectoryError."""
    return RunDirectory.of_server(parameters.optional_path("run_directory") or chosen_path(), os.getppid())
