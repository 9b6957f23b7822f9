"""Messages of a server that is not ours."""

import numpy as np
import pytest
from wan_t2v_client import ServerFault
from wan_t2v_client.progress import read_message


class OtherAnswer:
    """A last response of a model that is not ours."""

    def __init__(self, **outputs: list) -> None:
        self._outputs = outputs

    def as_numpy(self, name: str):
        return np.array(self._outputs[name], dtype=object) if name in self._outputs else None


@pytest.mark.parametrize(
    "outputs", [{"progress": [b"no JSON"]}, {"progress": [b"{}"]}, {"heartbeat": [b"[]"]}, {"metadata": [b"{}"]}]
)
def test_an_answer_that_cannot_be_read_is_the_servers_fault(outputs: dict) -> None:
    with pytest.raises(ServerFault, match="cannot be read"):
        read_message(OtherAnswer(**outputs))
