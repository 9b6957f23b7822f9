"""Triton model `prepare`: the code is in `wan_t2v/serving/models/prepare.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.prepare import Prepare


class TritonPythonModel:
    def initialize(self, args):
        self.model = Prepare(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)

    def finalize(self):
        self.model.finalize()
