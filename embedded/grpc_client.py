"""A gRPC client of the embedded server that bypasses the environment's proxies."""

import tritonclient.grpc

from embedded.options import ServerOptions
from embedded.ports import url_host

_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


def own_client(options: ServerOptions) -> tritonclient.grpc.InferenceServerClient:
    """Make the client; it connects at its first call."""
    return tritonclient.grpc.InferenceServerClient(
        f"{url_host(options.host)}:{options.grpc_port}", channel_args=_CHANNEL
    )
