"""Webhook receiver that records deliveries, and answers at once or when `answering` is set."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One webhook POST."""

    webhook_id: str
    kind: str
    video_id: str


@dataclass
class Receiver:
    """Recorded deliveries: those received, and those answered."""

    url: str = ""
    came: list[Delivery] = field(default_factory=list)
    answered: list[Delivery] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)

    def of(self, video_id: str) -> list[Delivery]:
        """Return the deliveries about a video, answered or not."""
        return [delivery for delivery in [*self.came] if delivery.video_id == video_id]

    def was_answered(self, video_id: str) -> bool:
        """Whether a delivery about this video was answered."""
        return any(delivery.video_id == video_id for delivery in [*self.answered])


@contextlib.contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Receive on a free loopback port inside the context."""
    receiver = Receiver()
    receiver.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            delivery = Delivery(self.headers["webhook-id"], body["type"], body["data"]["id"])
            receiver.came.append(delivery)
            receiver.answering.wait()
            with contextlib.suppress(OSError):
                self.send_response(204)
                self.end_headers()
                self.wfile.flush()
                receiver.answered.append(delivery)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answering.set()
        server.shutdown()
        server.server_close()
