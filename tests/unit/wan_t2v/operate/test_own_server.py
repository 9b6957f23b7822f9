"""No program asks a proxy about this machine, whatever its environment says."""

import pytest

from wan_t2v.operate.own_server import LOOPBACK, without_proxy


@pytest.mark.parametrize(
    ("given", "excepted"),
    [
        ({}, []),
        ({"no_proxy": "a.example, b.example"}, ["a.example", "b.example"]),
        ({"NO_PROXY": "a.example"}, ["a.example"]),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example,localhost"}, ["a.example", "b.example", "localhost"]),
        ({"no_proxy": ""}, []),
    ],
)
def test_this_machine_is_added_to_what_needs_no_proxy(given: dict[str, str], excepted: list[str]) -> None:
    changed = without_proxy({"http_proxy": "http://proxy.example:3128", **given})
    expected = ",".join(dict.fromkeys([*excepted, *LOOPBACK]))
    assert changed == {"http_proxy": "http://proxy.example:3128", "no_proxy": expected, "NO_PROXY": expected}


def test_what_grpc_reads_first_has_them_too() -> None:
    assert without_proxy({"no_grpc_proxy": "a.example"})["no_grpc_proxy"].split(",") == ["a.example", *LOOPBACK]
