"""Results of the parts: rates beside the seconds, and a table for people."""

from typing import Any

from benchmarks.gpu.timing import Row, round_figure

LINE_CHARACTERS = 200


def table(parts: dict[str, dict[str, Any]]) -> str:
    """Format the results: one line per part and one per row, with its figures or the reason for none."""
    lines = []
    for name, part in parts.items():
        lines.append(f"{name}: {part['status']} {part['reason']}")
        for row in part["rows"]:
            line = " ".join(f"{key}={value}" for key, value in row.items() if key != "traceback")
            lines.append(f"  {line[:LINE_CHARACTERS]}")
    return "\n".join(lines)


def with_rates(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add to each row its FLOP rate and its share of the best matrix product on the same GPU."""
    products = [row for row in parts.get("matrix_rate", {}).get("rows", []) if "seconds" in row]
    best = max((row["flops"] / row["seconds"] for row in products), default=None)

    def with_rate(row: Row) -> Row:
        if "flops" not in row or "seconds" not in row:
            return row
        rate = row["flops"] / row["seconds"]
        share = {} if best is None else {"of_matrix_rate": round_figure(rate / best)}
        return {**row, "tflop_per_s": round_figure(rate / 1e12), **share}

    return {name: {**part, "rows": [with_rate(row) for row in part["rows"]]} for name, part in parts.items()}
