"""Triton model `text_to_video_stream`: the code is in `wan_t2v/serving/models/text_to_video_stream.py`."""

import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.text_to_video_stream import TextToVideoStream


class TritonPythonModel:
    def initialize(self, args):
        self.model = TextToVideoStream(pb_utils, args)

    def execute(self, requests):
        return self.model.execute(requests)

    def finalize(self):
        self.model.finalize()
