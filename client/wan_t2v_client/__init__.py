"""Client of a Wan2.2 text-to-video server: `TextToVideo(Connection()).generate("a red ball rolls left").video`."""

from wan_t2v_client.async_text_to_video import AsyncTextToVideo
from wan_t2v_client.connection import Connection
from wan_t2v_client.errors import ClientError, DeadlineExceeded, RequestRefused, ServerFault, Unavailable
from wan_t2v_client.generation import Generation
from wan_t2v_client.progress import Heartbeat, Progress
from wan_t2v_client.retry import RetryPolicy
from wan_t2v_client.text_to_video import TextToVideo

__all__ = [
    "AsyncTextToVideo",
    "ClientError",
    "Connection",
    "DeadlineExceeded",
    "Generation",
    "Heartbeat",
    "Progress",
    "RequestRefused",
    "RetryPolicy",
    "ServerFault",
    "TextToVideo",
    "Unavailable",
]
