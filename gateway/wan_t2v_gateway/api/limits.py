"""What the server serves, as far as it publishes it: the parameters of its model `prepare`."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v_client import Connection

from wan_t2v_gateway.api.errors import ApiError, InvalidField

_log = logging.getLogger(__name__)
_RANGES: dict[str, tuple[float, float | None]] = {
    "num_inference_steps": (1, 1000),
    "fps": (1, 120),
    "num_frames": (1, None),
    "preview_every": (0, None),
    "seed": (0, None),
    "guidance_scale": (0, None),
    "guidance_scale_2": (0, None),
    "step_cache": (0, 1),
    "guidance_skip": (0, 1),
}
SOLVERS = ("unipc", "euler")
_FEWEST_STEPS_TO_LEAVE_OUT_FROM = 16
_LONGEST_PROMPT = 65536
_CONFIG_LIMIT_S = 1.0  # a caller waits no longer for it
_LARGEST_SHIFT = 100.0
_GRID_PX = 16  # every Wan2.2 checkpoint needs sides that are multiples of it; the server knows whether of more


@dataclass(frozen=True)
class Limits:
    """Sizes as (height, width, frames). Empty and None where the server did not say."""

    largest: tuple[int, int, int] | None = None
    served: tuple[tuple[int, int, int], ...] = ()

    def check(self, fields: Mapping[str, Any]) -> None:
        """Raise InvalidField for what this server is sure to refuse. The server has the last word."""
        for name in ("prompt", "negative_prompt"):
            if len(str(fields.get(name, "")).encode()) > _LONGEST_PROMPT:
                raise InvalidField(name, fields[name], f"at most {_LONGEST_PROMPT} bytes")
        for name, (least, most) in _RANGES.items():
            value = fields.get(name)
            if value is not None and not (least <= value and (most is None or value <= most)):
                raise InvalidField(name, value, f"from {least}" + ("" if most is None else f" to {most}"))
        if fields.get("solver", SOLVERS[0]) not in SOLVERS:
            raise InvalidField("solver", fields["solver"], " or ".join(SOLVERS))
        for name in ("step_cache", "guidance_skip"):
            if fields.get(name) and fields.get("num_inference_steps", 1000) < _FEWEST_STEPS_TO_LEAVE_OUT_FROM:
                accepted = f"0, or at least {_FEWEST_STEPS_TO_LEAVE_OUT_FROM} num_inference_steps"
                raise InvalidField(name, fields[name], accepted)
        if not 0 < fields.get("flow_shift", 1) <= _LARGEST_SHIFT:
            raise InvalidField("flow_shift", fields["flow_shift"], f"above 0, at most {_LARGEST_SHIFT:g}")
        frames = fields.get("num_frames")
        if frames is not None and frames % 4 != 1:
            raise InvalidField("num_frames", frames, "4k+1, such as 81")
        self._check_size(fields)

    def _check_size(self, fields: Mapping[str, Any]) -> None:
        names = ("height", "width", "num_frames")
        for index, name in enumerate(names):
            if self.largest and fields.get(name, 1) > self.largest[index]:
                raise InvalidField(name, fields[name], f"at most {self.largest[index]}")
            if fields.get(name, 1) < 1:
                raise InvalidField(name, fields[name], "1 or more")
            if name != "num_frames" and fields.get(name, _GRID_PX) % _GRID_PX:
                raise InvalidField(name, fields[name], f"a multiple of {_GRID_PX}")
            if self.served and name in fields and all(size[index] != fields[name] for size in self.served):
                raise InvalidField(name, fields[name], f"one of {sorted({size[index] for size in self.served})}")
        given = {index: fields[name] for index, name in enumerate(names) if name in fields}
        if self.served and not any(all(size[index] == given[index] for index in given) for size in self.served):
            sizes = ", ".join(f"{width}x{height} with {frames} frames" for height, width, frames in self.served)
            raise InvalidField("size", "one that is not served with these frames", sizes)

    def document(self) -> dict[str, Any]:
        """As `GET /v1/models` shows them; sizes as WIDTHxHEIGHT."""
        return {
            "largest_size": f"{self.largest[1]}x{self.largest[0]}" if self.largest else None,
            "most_frames": self.largest[2] if self.largest else None,
            "sizes": sorted({f"{width}x{height}" for height, width, _ in self.served}),
        }


class LimitsReader:
    """Asks the server once it is there, and keeps the answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._limits: Limits | None = None

    async def read(self) -> Limits:
        """The server's limits; empty ones while it is away."""
        if self._limits is None:
            try:
                self._limits = await self._ask()
            except Exception as error:  # whatever is wrong with the server, the job is queued all the same
                _log.info("the server's limits are not known yet: %s", error)
                return Limits()
        return self._limits

    async def ready(self) -> None:
        """Raise ApiError if no server answers."""
        client = self._connection.open_asyncio()
        try:
            if await client.is_model_ready("text_to_video_stream", client_timeout=1.5):
                return
            raise ApiError(503, "the server behind the gateway is not ready")
        except ApiError:
            raise
        except Exception as error:
            raise ApiError(503, f"the server behind the gateway does not answer: {str(error)[:200]}") from None
        finally:
            await client.close()

    async def _ask(self) -> Limits:
        client = self._connection.open_asyncio()
        try:
            config = await client.get_model_config("prepare", as_json=True, client_timeout=_CONFIG_LIMIT_S)
        finally:
            await client.close()
        return limits_from_config(config)


def limits_from_config(answer: Mapping[str, Any]) -> Limits:
    """Read the parameters of `prepare`: clips as HEIGHTxWIDTHxFRAMES."""
    parameters = answer.get("config", answer).get("parameters", {})
    texts = {name: str(value.get("string_value", "")) for name, value in parameters.items()}
    served = tuple(_clip(text) for text in texts.get("served_clips", "").split(",") if text.strip())
    largest = texts.get("largest_clip", "")
    _log.debug("parameters of prepare: %s", json.dumps(texts))
    return Limits(_clip(largest) if largest else None, served)


def _clip(text: str) -> tuple[int, int, int]:
    height, width, frames = (int(part) for part in text.strip().split("x"))
    return height, width, frames
