"""The table and the plot."""

import json
from pathlib import Path

from benchmarks.quality.report import points_by_precision, table, write_plot

ROWS = {
    "exact": {"passes": 80, "seconds": 1.2, "ratio": 1.0, "psnr_db": 100.0, "ssim": 1.0},
    "fast": {"passes": 41.5, "seconds": 0.6, "ratio": 0.5, "psnr_db": 31.25, "ssim": 0.93},
}


def test_the_table_has_the_columns_that_were_measured() -> None:
    assert table(ROWS) == [
        "| way | passes | seconds | of exact's time | PSNR, dB | SSIM |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `exact` | 80 | 1.2 | 1 | 100 | 1 |",
        "| `fast` | 41.5 | 0.6 | 0.5 | 31.25 | 0.93 |",
    ]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    write_plot(tmp_path / "quality.png", ROWS, title="a machine")
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_points_are_grouped_by_the_precision_before_the_comma() -> None:
    row = {"ratio": 0.5, "psnr_db": 40.0}
    names = ("fast", "another seed", "int8", "int8, fast")
    assert points_by_precision({"exact": {"ratio": 1.0, "psnr_db": 100.0}, **dict.fromkeys(names, row)}) == {
        "precision of exact": {"fast": (0.5, 40.0), "another seed": (0.5, 40.0)},
        "int8": {"exact": (0.5, 40.0), "fast": (0.5, 40.0)},
    }


def test_a_profile_of_several_fields_is_no_precision() -> None:
    row = {"ratio": 0.5, "psnr_db": 40.0}
    fields = "step_cache=0.05, guidance_skip=0.1"
    assert points_by_precision(dict.fromkeys((fields, "int8", f"int8, {fields}"), row)) == {
        "precision of exact": {fields: (0.5, 40.0)},
        "int8": {"exact": (0.5, 40.0), fields: (0.5, 40.0)},
    }


def test_the_page_shows_the_last_run_as_it_was_printed(root: Path) -> None:
    page = (root / "docs/use/speed.md").read_text(encoding="utf-8")
    path = max((root / "benchmarks/quality/results").glob("*.json"))
    result = json.loads(path.read_text(encoding="utf-8"))
    assert "\n".join(table(result["profiles"])) in page
    assert f"{result['date']}, {result['machine']}, load {result['load']:g}" in page and path.name in page
