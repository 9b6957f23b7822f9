"""Calls of the gateway over HTTP, and the check that an answer is a fair refusal."""

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

LIMIT_S = 30.0  # the gateway's own limit on a slow body is 20 s
BUSY = 503  # for a database that is slow on a busy machine; the call is retried
MOST_TRIES = 10
SIGNS_OF_CODE = ("Traceback", 'File "', "Error:", "site-packages")
FIELDS_OF_AN_ERROR = {"message", "type", "param", "code"}


@dataclass(frozen=True)
class Call:
    """A request that must be refused.

    Attributes:
        params: accepted values of `error.param`; empty if no field is at fault.
        fine: statuses that are correct although they are no refusal.
        byte_chunks: whether the body is sent in chunks of one byte.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    params: frozenset[str] = frozenset()
    fine: tuple[int, ...] = ()
    byte_chunks: bool = False

    def with_header(self, name: str, value: str) -> "Call":
        """Return the same call with one more header."""
        return Call(**{**vars(self), "headers": (*self.headers, (name, value))})


Draw = Callable[[np.random.Generator], Call]


@dataclass(frozen=True)
class Answer:
    """Response to a call. Status 0 is a connection without an answer."""

    status: int
    text: str
    seconds: float


def send(url: str, call: Call) -> Answer:
    """Send a call over its own connection, and retry while the gateway is busy."""
    for _ in range(MOST_TRIES):
        answer = _once(url, call)
        if answer.status != BUSY:
            break
    return answer


def _once(url: str, call: Call) -> Answer:
    began = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    try:
        names = {name.lower() for name, _ in call.headers}
        connection.putrequest(call.method, call.path, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in call.headers:
            connection.putheader(name, value.encode("latin-1"))
        _send_body(connection, call)
        with connection.getresponse() as answer:
            text = answer.read().decode(errors="replace")
            return Answer(answer.status, text, time.monotonic() - began)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"{type(error).__name__}: {error}", time.monotonic() - began)
    finally:
        connection.close()


def _send_body(connection: http.client.HTTPConnection, call: Call) -> None:
    if call.body is None:
        connection.endheaders()
    elif call.byte_chunks:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders([bytes([byte]) for byte in call.body], encode_chunked=True)
    else:
        connection.putheader("Content-Length", str(len(call.body)))
        connection.endheaders(call.body)


def fault_of(call: Call, answer: Answer) -> str | None:
    """Return the fault of an answer. None for a fair refusal."""
    if answer.status in call.fine:
        return None
    if not 400 <= answer.status < 500:
        return f"answered {answer.status or 'nothing'}: {answer.text[:200]}"
    if answer.seconds > LIMIT_S:
        return f"answered after {answer.seconds:.0f} s"
    return fault_of_text(answer.text, call.params if answer.status == 400 else frozenset())


def fault_of_text(text: str, params: frozenset[str] = frozenset()) -> str | None:
    """Check an error's body: it must have the API's form, reveal no code, and name the field. Returns the fault."""
    try:
        error = json.loads(text)["error"]
        shown = error.keys() == FIELDS_OF_AN_ERROR and bool(error["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        shown = False
    if not shown:
        return f"an error of another shape: {text[:200]}"
    if any(sign in text for sign in SIGNS_OF_CODE):
        return f"an error that tells of the code: {text[:200]}"
    if params and error["param"] not in params:
        return f"param is {error['param']!r}, not one of {sorted(params)}: {text[:200]}"
    return None
