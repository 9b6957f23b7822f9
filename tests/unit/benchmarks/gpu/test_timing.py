"""Rows that survive a failure."""

from benchmarks.gpu.timing import Row, Skipped, attempt


def test_one_failed_row_does_not_cost_the_others() -> None:
    def fails() -> Row:
        raise RuntimeError("CUDA out of memory\nwith a long story")

    def skips() -> Row:
        raise Skipped("no such package")

    rows = [*attempt({"size": "a"}, fails), *attempt({"size": "b"}, skips), *attempt({}, lambda: {"x": 0.123456})]
    told = rows[0].pop("traceback")
    assert told[-2:] == ["RuntimeError: CUDA out of memory", "with a long story"]
    assert '  File "benchmarks/gpu/timing.py"' in "\n".join(told), "and no folder of this machine"
    assert rows == [
        {"size": "a", "error": "RuntimeError: CUDA out of memory"},
        {"size": "b", "skipped": "no such package"},
        {"x": 0.1235},
    ]
