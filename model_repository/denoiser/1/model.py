"""Triton model `denoiser`: the code is in `wan_t2v/serving/models/denoiser.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.denoiser import Denoiser


class TritonPythonModel:
    def initialize(self, args):
        self.model = Denoiser(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)

    def finalize(self):
        self.model.finalize()
