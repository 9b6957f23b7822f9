"""Client of a Wan2.2 text-to-video server: `TextToVideo(Connection()).generate("a red ball rolls left").video`."""

from wan_t2v_client.connection import Connection
from wan_t2v_client.errors import ClientError, DeadlineExceeded, RequestRefused, ServerFault, Unavailable
from wan_t2v_client.generation import Generation
from wan_t2v_client.streaming import Progress
from wan_t2v_client.text_to_video import TextToVideo

__all__ = [
    "ClientError",
    "Connection",
    "DeadlineExceeded",
    "Generation",
    "Progress",
    "RequestRefused",
    "ServerFault",
    "TextToVideo",
    "Unavailable",
]
