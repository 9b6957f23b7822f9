"""Triton model `vae_decoder`: the code is in `wan_t2v/serving/models/vae_decoder.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.vae_decoder import VaeDecoder


class TritonPythonModel:
    def initialize(self, args):
        self.model = VaeDecoder(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)

    def finalize(self):
        self.model.finalize()
