"""The result as one picture."""

from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot medians as bars, the 99th percentile as a line, and the goals as diamonds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    added, reading, streams, goals = (
        result[name] for name in ("added_to_a_video", "reading", "many_streams", "goals_ms")
    )
    rows = [
        ("POST to the first step's event", added["post_to_first_step_event"], goals["post_to_first_step_event"]),
        ("last frame to `completed`", added["last_frame_to_completed_event"], goals["last_frame_to_completed_event"]),
        (f"GET a video, {reading['records']:,} on record", reading["get_one"], goals["get"]),
        (f"GET a list, {reading['records']:,} on record", reading["get_list"], goals["get"]),
        (f"a step to {streams['streams']} streams", streams["step_to_event"], None),
        (f"GET a video, {streams['streams']} streams open", streams["get_meanwhile"], None),
    ][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for place, (_, values, goal) in enumerate(rows):
        axes.barh(place, values["p50_ms"], height=0.6, color="#4477aa", label="median" if place == 0 else None)
        axes.plot([values["p50_ms"], values["p99_ms"]], [place, place], color="#222222", linewidth=1.5)
        axes.plot(values["p99_ms"], place, "|", color="#222222", markersize=12, label="p99" if place == 0 else None)
        if goal:
            axes.plot(goal, place, "D", color="#cc3311", markersize=6, label="goal" if place == 5 else None)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_xlabel("milliseconds")
    queue = result["queue_alone"]
    about = "A REHEARSAL: THESE ARE NO FIGURES; " if result["quick"] else f"{result['machine']['cpu']}; "
    axes.set_title(f"{about}jobs taken {queue['created_per_s']:.0f}/s, done {queue['done_per_s']:.0f}/s", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
