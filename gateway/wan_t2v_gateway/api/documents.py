"""JSON documents of records for callers."""

from typing import Any

from wan_t2v_gateway.database.records import MODEL_FPS, Video


def video_document(video: Video, place: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a video's document in the Videos API's format, with fields of our own; `place` is that in the queue."""
    settings = {**video.fields, **((video.metadata or {}).get("settings") or {})}
    frames = settings.get("num_frames")
    size = f"{settings['width']}x{settings['height']}" if {"width", "height"} <= settings.keys() else None
    document = {
        "id": video.id,
        "object": "video",
        "model": video.model,
        "status": video.status,
        "progress": 100 if video.status == "completed" else int(video.progress.get("percent", 0)),
        "created_at": _seconds(video.created_at),
        "started_at": _seconds(video.started_at),
        "completed_at": _seconds(video.completed_at) if video.status == "completed" else None,
        "ended_at": _seconds(video.completed_at),
        "expires_at": _seconds(video.expires_at),
        "prompt": video.fields.get("prompt"),
        "remixed_from_video_id": video.remixed_from,
        "seconds": None if frames is None else f"{frames / settings.get('fps', MODEL_FPS):g}",
        "size": size,
        "error": video.error,
        "sha256": video.sha256,
        "marked": (video.metadata or {}).get("marked"),
        "attempts": video.attempt,
        "settings": {name: value for name, value in settings.items() if name not in ("prompt", "video_encoding")},
    }
    if video.status == "in_progress":
        document |= {"cancelling": True} if video.cancel_requested_at else {}
        document["now"] = video.progress
    if place is not None:
        document["queue"] = place
    return document


def _seconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())
