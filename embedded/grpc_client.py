"""A gRPC client of one's own server, which no proxy of the environment is asked for."""

import tritonclient.grpc

from embedded.options import ServerOptions
from embedded.ports import bracketed

_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


def own_client(options: ServerOptions) -> tritonclient.grpc.InferenceServerClient:
    """It connects at its first call."""
    return tritonclient.grpc.InferenceServerClient(
        f"{bracketed(options.host)}:{options.grpc_port}", channel_args=_CHANNEL
    )
