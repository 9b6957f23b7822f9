"""Timing of work on a device, and result rows that record failures."""

import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
DIGITS = 4  # significant digits of a figure
TRACEBACK_LINES = 25
CHECKOUT = Path(__file__).resolve().parents[2]


class Skipped(Exception):
    """A measurement that is impossible here. The message is the reason."""


def median_seconds(work: Callable[[], object], device: str, *, repeats: int) -> float:
    """Return the median seconds of `repeats` runs after a warm-up. On a GPU, CUDA events measure the time."""
    work()
    if torch.device(device).type != "cuda":
        return statistics.median(_host_seconds(work) for _ in range(repeats))
    torch.cuda.synchronize(device)
    return statistics.median(_device_seconds(work) for _ in range(repeats))


def _host_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _device_seconds(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def attempt(about: Row, measure: Callable[[], Row]) -> Iterator[Row]:
    """Yield one row: `about` with the figures of `measure`, or with its failure and the end of the traceback.

    No exception leaves this function, so that later rows are still measured.
    """
    try:
        yield {**about, **{key: round_figure(value) for key, value in measure().items()}}
    except Skipped as reason:
        yield {**about, "skipped": str(reason)}
    except Exception as error:
        failure = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        lines = traceback.format_exc().splitlines()[-TRACEBACK_LINES:]
        yield {**about, "error": without_folders(failure), "traceback": [without_folders(line) for line in lines]}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def without_folders(text: str) -> str:
    """Remove the folders of the checkout and of temporary files from a text, so that results can be compared."""
    for folder in (CHECKOUT, Path(tempfile.gettempdir())):
        text = text.replace(f"{folder}/", "")
    return text


def round_figure(value: Any) -> Any:
    """Round a float to four significant digits. Other values are returned unchanged."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
