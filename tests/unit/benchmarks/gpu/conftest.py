"""The scale of a rehearsal, for the tests of each part."""

from dataclasses import replace

import pytest

from benchmarks.gpu.scale import Scale, rehearsal_scale
from wan_t2v.shapes import VideoShape


@pytest.fixture
def scale() -> Scale:
    return replace(rehearsal_scale(), sizes=(VideoShape(5, 32, 48),), repeats=1, most_blocks=2)
