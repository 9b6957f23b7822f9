"""Triton's model control over HTTP: load and unload models of one server, ask which are loaded, and who may.

A file of the run directory has the server's address and the administrator's key. Only the server's user can read it;
the embedded server's launcher writes it. Without that file the address is Triton's default on this machine. The key
then comes from the environment, which the chart sets from its Secret. No client command takes the key as an argument.
"""

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "model_control.json"
KEY_VARIABLE = "WAN_T2V_ADMIN_KEY"
KEY_HEADER = "admin-key"
# Loading a model runs code as the server's user. Knowing a shared memory region's name allows reading and writing it.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
RESTRICTION_OPTIONS = ("grpc-restricted-protocol", "http-restricted-api")
LOAD_LIMIT_S = 1800.0  # for 30 GB from a slow disk
CALL_LIMIT_S = 30.0
READY, UNLOADING, UNAVAILABLE = "READY", "UNLOADING", "UNAVAILABLE"


def restriction_options(key: str) -> list[str]:
    """Return tritonserver's options that keep the protocols of RESTRICTED to callers with the administrator's key."""
    return [f"--{option}={','.join(RESTRICTED)}:{KEY_HEADER}={key}" for option in RESTRICTION_OPTIONS]


class ModelControlError(Exception):
    """Model control failed; the message has the server's reason. `passes`: whether a later retry may succeed."""

    def __init__(self, message: str, *, passes: bool = True) -> None:
        super().__init__(message)
        self.passes = passes


@dataclass(frozen=True)
class ControlAddress:
    """HTTP address of a server's model control. `key` is the administrator's, empty if the server needs none."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = field(default="", repr=False)

    @classmethod
    def of_server(cls, run_directory: Path) -> "ControlAddress":
        """Read the address from the server's run directory, else return the default. Raises ModelControlError."""
        path = run_directory / FILE
        try:
            address = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(address["host"]), int(address["port"]), str(address["key"]))
        except FileNotFoundError:
            return cls(key=os.environ.get(KEY_VARIABLE, ""))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelControlError(f"{path} cannot be read: {error}", passes=False) from None

    def publish(self, run_directory: Path) -> None:
        """Write the address for the server's own processes. At no time can another user read the file."""
        run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = run_directory / f".{FILE}"
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        partial.replace(run_directory / FILE)


@dataclass(frozen=True)
class ModelControl:
    """Model control of the server that owns a run directory. All methods raise ModelControlError."""

    run_directory: Path

    def state(self, model: str) -> str:
        """Return the first of `READY`, `LOADING` and `UNLOADING` that a version has, else `UNAVAILABLE`.

        The state comes from the repository index, since both readiness calls mislead. They report `UNLOADING` as not
        ready. Triton 2.71 also reports a model as not ready whose process died, and fails for one that is not loaded.
        """
        text = self._post("/v2/repository/index", limit_s=CALL_LIMIT_S)
        try:
            states = {entry.get("state") for entry in json.loads(text) if entry["name"] == model}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelControlError(f"no repository index: {text[:200]!r}") from None
        return next((state for state in (READY, "LOADING", UNLOADING) if state in states), UNAVAILABLE)

    def load(self, model: str) -> None:
        """Load a model; returns when it is ready. A model that is ready already stays as it is."""
        self._post(f"/v2/repository/models/{model}/load", limit_s=LOAD_LIMIT_S)

    def unload(self, model: str) -> None:
        """Begin to unload a model. Triton returns immediately, and reports `UNLOADING` until its memory is freed."""
        self._post(f"/v2/repository/models/{model}/unload", limit_s=CALL_LIMIT_S)

    def _post(self, path: str, *, limit_s: float) -> str:
        address = ControlAddress.of_server(self.run_directory)
        # not urllib, which would send the call through the environment's http_proxy
        connection = http.client.HTTPConnection(address.host, address.port, timeout=limit_s)
        try:
            connection.request("POST", path, body="{}", headers=_headers(address))
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            reason = f"no answer from {address.host}:{address.port}{path}: {type(error).__name__} {error}".rstrip()
            raise ModelControlError(reason) from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise _refusal(response.status, text)
        return text


def _headers(address: ControlAddress) -> Mapping[str, str]:
    return {"Content-Type": "application/json", **({KEY_HEADER: address.key} if address.key else {})}


def _refusal(status: int, text: str) -> ModelControlError:
    try:
        reason: Any = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        reason = text or f"HTTP status {status}"
    if status in (http.HTTPStatus.FORBIDDEN, http.HTTPStatus.UNAUTHORIZED) or "is restricted" in str(reason):
        remedy = f"the server wants the administrator's key in {FILE} of the run directory or in {KEY_VARIABLE}"
        return ModelControlError(f"{remedy}: {reason}", passes=False)
    if "explicit model load / unload is not allowed" in str(reason):
        return ModelControlError(f"start the server with --model-control-mode=explicit: {reason}", passes=False)
    return ModelControlError(" ".join(str(reason).split()))
