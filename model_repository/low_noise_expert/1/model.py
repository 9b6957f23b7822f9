"""Triton model `low_noise_expert`: the code is in `wan_t2v/serving/models/graph.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.graph import GraphModel


class TritonPythonModel:
    def initialize(self, args):
        self.model = GraphModel(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)
