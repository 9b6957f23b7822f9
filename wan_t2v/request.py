"""A request's fields, checked once and resolved to the settings that every later step reads.

Nothing is bent: a value that cannot be served is refused with what came, what is accepted and the nearest value that
works. Standard library only.
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from wan_t2v.facts import ServingDefaults
from wan_t2v.shapes import LatentGrid, VideoShape

OUTPUT_TYPES = ("mp4", "frames", "latents")
VIDEO_ENCODINGS = ("raw", "base64")
MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
MAX_FPS = 120
MAX_FLOW_SHIFT = 100.0
MAX_QUOTED = 200  # characters of what came, in an error
LONGEST_NAME = 64  # of a field, parameter or choice; what is longer is compared with nothing
MAX_PROMPT_BYTES = 65536  # far beyond any text length; what is longer is a mistake, not a prompt


class InvalidField(ValueError):
    """A field that cannot be served: the message names it, what came, what is accepted and a value that works."""

    def __init__(self, field: str, came: object, accepted: str, *, nearest: object = None) -> None:
        hint = "" if nearest is None else f" Nearest: {nearest}."
        super().__init__(f"{_quoted(field)}: got {_quoted(str(came))}; accepted: {accepted}.{hint}")
        self.field = field
        self.nearest = nearest


def _quoted(text: str) -> str:
    """What the caller sent, at most MAX_QUOTED characters of it."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}... ({len(text)} characters)"


def is_refusal(message: str) -> bool:
    """Whether a text is the message of a InvalidField: codes are lost on the way between models, texts are not."""
    return re.match(r"[a-z0-9_, ]+: got .*; accepted: ", message, re.DOTALL) is not None


def is_guided(guidance_scale: float) -> bool:
    """Whether a negative pass runs. As in diffusers this looks at the high-noise expert's scale alone."""
    return guidance_scale > 1.0


@dataclass(frozen=True)
class ServedSizes:
    """Which clips a deployment serves: a closed list, or anything up to a largest one if the list is empty.

    `token_passes` is the most work of one request: transformer tokens of the clip times passes of the experts.
    """

    largest: VideoShape
    listed: tuple[VideoShape, ...] = ()
    token_passes: int | None = None


@dataclass(frozen=True)
class Settings:
    """A request with every default resolved: what a generation depends on, and nothing else.

    `guidance_scale` is used while the high-noise expert runs, `guidance_scale_2` while the low-noise expert runs.
    """

    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float
    flow_shift: float
    seed: int
    fps: int
    output_type: str
    video_encoding: str

    @property
    def video_shape(self) -> VideoShape:
        """The clip in pixels."""
        return VideoShape(self.num_frames, self.height, self.width)

    @property
    def passes(self) -> int:
        """Forward passes of the experts."""
        return self.num_inference_steps * (2 if self.guided else 1)

    @property
    def guided(self) -> bool:
        """Whether a negative pass runs."""
        return is_guided(self.guidance_scale)

    def encoded(self, data: bytes) -> bytes:
        """A video's or a preview's bytes as the answer carries them: as they are, or in base64."""
        return base64.b64encode(data) if self.video_encoding == "base64" else data

    def to_json(self) -> str:
        """One JSON object; `from_json` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Settings":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def resolve_settings(
    fields: Mapping[str, Any],
    *,
    latents_shape: Sequence[int] | None,
    defaults: ServingDefaults,
    grid: LatentGrid,
    served: ServedSizes,
    fallback_seed: int,
) -> Settings:
    """Check `fields` (absent ones take their default) and return the settings. Raises InvalidField.

    `prompt` and `negative_prompt` must have been cleaned; `latents_shape` is that of the given starting noise.
    """
    value = {**asdict(defaults), "seed": fallback_seed, "output_type": "mp4", "video_encoding": "raw", **fields}
    settings = Settings(
        prompt=_prompt(fields),
        negative_prompt=value["negative_prompt"],
        height=value["height"],
        width=value["width"],
        num_frames=value["num_frames"],
        num_inference_steps=_integer("num_inference_steps", value["num_inference_steps"], 1, MAX_STEPS),
        guidance_scale=_guidance("guidance_scale", value["guidance_scale"]),
        guidance_scale_2=_guidance("guidance_scale_2", value["guidance_scale_2"]),
        flow_shift=_flow_shift(value["flow_shift"]),
        seed=_integer("seed", value["seed"], 0, MAX_SEED),
        fps=_integer("fps", value["fps"], 1, MAX_FPS),
        output_type=_choice("output_type", value["output_type"], OUTPUT_TYPES),
        video_encoding=_choice("video_encoding", value["video_encoding"], VIDEO_ENCODINGS),
    )
    check_size(settings.video_shape, grid, served)
    _check_work(settings, grid, served)
    _check_latents(latents_shape, settings.video_shape, grid)
    return settings


def check_size(video: VideoShape, grid: LatentGrid, served: ServedSizes) -> None:
    """Refuse a clip that is not served: outside the closed list, or a side or a count that does not fit the grid."""
    if served.listed:
        _check_listed(video, served)
        return
    _check_side("height", video.height, grid, served.largest.height)
    _check_side("width", video.width, grid, served.largest.width)
    _check_num_frames(video.frames, grid, served.largest.frames)


def check_parameters(names: Sequence[str], *, fields: Sequence[str], parameters: Sequence[str]) -> None:
    """Refuse request parameters that would be ignored: unknown names, and fields, which are tensors.

    A typing error and a field that was not sent as a tensor arrive silently as request parameters. Raises InvalidField.
    """
    for name in names:
        if name in fields:
            raise InvalidField(name, "a request parameter", "a tensor of this name: send the field as an input")
        if name not in parameters:
            known = (*fields, *parameters)
            raise InvalidField(name, "an unknown field", ", ".join(known), nearest=_closest(name, known))


def _closest(name: str, known: Sequence[str]) -> str | None:
    """The most alike of the known names; comparing takes long where the name is long."""
    close = get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
    return close[0] if close else None


def check_prompt_bytes(field: str, raw: bytes) -> str:
    """Decode a prompt. Raises InvalidField if it is not UTF-8 or absurdly long."""
    if len(raw) > MAX_PROMPT_BYTES:
        raise InvalidField(field, f"{len(raw)} bytes", f"at most {MAX_PROMPT_BYTES} bytes of UTF-8 text")
    return check_text(field, raw)


def check_word(field: str, raw: bytes) -> str:
    """Decode a text field that is one of a few words. Raises InvalidField."""
    if len(raw) > LONGEST_NAME:
        raise InvalidField(field, f"{len(raw)} bytes", f"a word of at most {LONGEST_NAME} bytes")
    return check_text(field, raw)


def check_text(field: str, raw: bytes) -> str:
    """Decode a text field. Raises InvalidField if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidField(field, f"bytes that are not UTF-8 (at byte {error.start})", "UTF-8 text") from None


def _prompt(fields: Mapping[str, Any]) -> str:
    if "prompt" not in fields:
        raise InvalidField("prompt", "nothing", "a text that describes the video")
    if not fields["prompt"]:
        raise InvalidField("prompt", "an empty text", "a text that describes the video")
    prompt: str = fields["prompt"]
    return prompt


def _check_side(field: str, value: int, grid: LatentGrid, largest: int) -> None:
    step = grid.size_multiple_px
    if value % step or not step <= value <= largest:
        nearest = min(max(round(value / step) * step, step), largest // step * step)
        raise InvalidField(field, value, f"a multiple of {step} from {step} to {largest} pixels", nearest=nearest)


def _check_num_frames(value: int, grid: LatentGrid, largest: int) -> None:
    step = grid.time_stride
    if value % step != 1 or not 1 <= value <= largest:
        most = (largest - 1) // step * step + 1
        nearest = min(max(round((value - 1) / step) * step + 1, 1), most)
        raise InvalidField("num_frames", value, f"{step}k+1 (1, {1 + step}, ...) up to {most}", nearest=nearest)


def _integer(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidField(field, value, f"an integer from {least} to {most}", nearest=min(max(value, least), most))
    return value


def _guidance(field: str, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise InvalidField(field, value, "a finite number, 0 or more", nearest=0.0 if value < 0 else None)
    return value


def _flow_shift(value: float) -> float:
    if not (math.isfinite(value) and 0 < value <= MAX_FLOW_SHIFT):
        nearest = MAX_FLOW_SHIFT if value > MAX_FLOW_SHIFT else None
        raise InvalidField("flow_shift", value, f"a number above 0, at most {MAX_FLOW_SHIFT:g}", nearest=nearest)
    return value


def _choice(field: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidField(field, repr(value), " or ".join(choices), nearest=_closest(value, choices))
    return value


def _check_listed(video: VideoShape, served: ServedSizes) -> None:
    if video not in served.listed:
        nearest = min(served.listed, key=lambda one: sum(abs(a - b) for a, b in zip(one, video, strict=True)))
        accepted = ", ".join(str(one) for one in served.listed)
        raise InvalidField("height, width, num_frames", video, f"height x width x frames {accepted}", nearest=nearest)


def _check_work(settings: Settings, grid: LatentGrid, served: ServedSizes) -> None:
    tokens = grid.tokens(settings.video_shape)
    if served.token_passes is None or settings.passes * tokens <= served.token_passes:
        return
    steps = served.token_passes // tokens // (settings.passes // settings.num_inference_steps)
    raise InvalidField(
        "num_inference_steps",
        f"{settings.num_inference_steps} for {settings.video_shape}, {settings.passes} passes over {tokens} tokens",
        f"at most {served.token_passes} tokens x passes in one request",
        nearest=steps if steps else None,
    )


def _check_latents(shape: Sequence[int] | None, video: VideoShape, grid: LatentGrid) -> None:
    expected = grid.latent_shape(video).tensor_shape
    if shape is not None and tuple(shape) != expected:
        raise InvalidField("latents", f"shape {list(shape)}", f"shape {list(expected)} for {video}", nearest=None)
