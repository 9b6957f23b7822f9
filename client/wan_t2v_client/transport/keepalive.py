"""gRPC's keepalive: detects a dead connection while a call is silent.

Both sides can ping. A server ends the connection of a client that pings more often than it accepts (GOAWAY,
`too_many_pings`), and so the running call. gRPC's default, and Triton's (`--grpc-http2-min-recv-ping-interval-
without-data`), is one ping in 300 s, with two strikes forgiven: https://github.com/grpc/grpc/blob/master/doc/keepalive.md.
"""

from typing import Any

# a tenth above what a server accepts by default: with 299 s, tritonserver 2.51 ended a silent call after 1495 s
KEEPALIVE_S = 330.0
LEAST_KEEPALIVE_S, LONGEST_KEEPALIVE_S = 0.001, 2e6  # gRPC counts milliseconds in 32 bits
KEEPALIVE_ANSWER_S = 20.0  # gRPC's default of keepalive_timeout; that of ping_timeout, 60 s, was seen to win
_INT32_MAX = 2**31 - 1
# By default gRPC waits up to 120 s, growing, before it reconnects, and fails every call meanwhile. The client has its
# own retry policy.
_RECONNECT_S = 2.0


def channel_arguments(keepalive_s: float) -> list[tuple[str, Any]]:
    """Make the gRPC channel's arguments: messages of any size, as in tritonclient, and a ping every `keepalive_s`.

    The client pings only during a call, but then without a limit. With gRPC's default limit of two pings without data,
    older releases stop there. Newer ones continue with one per minute (proposal L116), which is more than a server
    accepts by default: tritonserver 2.51 ended the silent call of such a client after 300 s.
    """
    return [
        ("grpc.max_send_message_length", _INT32_MAX),
        ("grpc.max_receive_message_length", _INT32_MAX),
        ("grpc.keepalive_time_ms", round(1e3 * keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1e3 * KEEPALIVE_ANSWER_S)),
        ("grpc.http2.ping_timeout_ms", round(1e3 * KEEPALIVE_ANSWER_S)),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", round(1e3 * _RECONNECT_S / 2)),
        ("grpc.max_reconnect_backoff_ms", round(1e3 * _RECONNECT_S)),
    ]
