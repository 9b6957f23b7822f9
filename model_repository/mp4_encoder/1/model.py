"""Triton model `mp4_encoder`: the code is in `wan_t2v/serving/models/mp4_encoder.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.mp4_encoder import Mp4Encoder


class TritonPythonModel:
    def initialize(self, args):
        self.model = Mp4Encoder(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)

    def finalize(self):
        self.model.finalize()
