"""Client of a Wan2.2 text-to-video server: `TextToVideo(Connection()).generate("a red ball rolls left").video`.

Start with text_to_video.py, then streaming.py.

Names are imported on first use, since the command must set gRPC's environment before gRPC is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wan_t2v_client.async_text_to_video import AsyncTextToVideo
    from wan_t2v_client.errors import ClientError, DeadlineExceeded, RequestRefused, ServerFault, Unavailable
    from wan_t2v_client.generation import Generation
    from wan_t2v_client.limits import Limits
    from wan_t2v_client.progress import Heartbeat, Progress
    from wan_t2v_client.retry import RetryPolicy
    from wan_t2v_client.text_to_video import TextToVideo
    from wan_t2v_client.transport.connection import Connection

__all__ = [
    "AsyncTextToVideo",
    "ClientError",
    "Connection",
    "DeadlineExceeded",
    "Generation",
    "Heartbeat",
    "Limits",
    "Progress",
    "RequestRefused",
    "RetryPolicy",
    "ServerFault",
    "TextToVideo",
    "Unavailable",
]
_ERRORS = ("ClientError", "DeadlineExceeded", "RequestRefused", "ServerFault", "Unavailable")
_MODULES = {
    "AsyncTextToVideo": "async_text_to_video",
    "Connection": "transport.connection",
    "Generation": "generation",
    "Heartbeat": "progress",
    "Limits": "limits",
    "Progress": "progress",
    "RetryPolicy": "retry",
    "TextToVideo": "text_to_video",
    **dict.fromkeys(_ERRORS, "errors"),
}


if not TYPE_CHECKING:  # a type checker would take any name for one that this function finds

    def __getattr__(name: str) -> Any:
        """Import a name of `__all__` on first use. Raises AttributeError for any other name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
