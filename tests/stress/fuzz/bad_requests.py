"""Classes of bad requests. Each draws requests with one kind of fault."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wan_t2v.contract import STREAM_REQUEST, Dtype

TYPES = {tensor.name: tensor.dtype for tensor in STREAM_REQUEST}
_NUMPY = {Dtype.BYTES: np.object_, Dtype.INT32: np.int32, Dtype.INT64: np.int64, Dtype.FP32: np.float32}


@dataclass(frozen=True)
class Sent:
    """One tensor of a request, valid or not."""

    datatype: str
    array: np.ndarray


@dataclass(frozen=True)
class Bad:
    """A bad request: its tensors and parameters."""

    tensors: dict[str, Sent]
    parameters: dict[str, Any] = field(default_factory=dict)


Draw = Callable[[np.random.Generator], Bad]


def sent(name: str, value: Any) -> Sent:
    """Return a field's tensor in its own type, with shape [1]."""
    array = np.empty(1, dtype=_NUMPY[TYPES[name]])
    array[0] = value.encode() if isinstance(value, str) else value
    return Sent(TYPES[name].value, array)


def request(**fields: Any) -> dict[str, Sent]:
    """Return a small valid request with changed fields. A Sent is used unchanged, None removes the field."""
    good: dict[str, Any] = {"prompt": "a red ball", "height": 32, "width": 32, "num_frames": 1}
    good |= {"num_inference_steps": 1, "seed": 1}
    given = {name: value for name, value in (good | fields).items() if value is not None}
    return {name: value if isinstance(value, Sent) else sent(name, value) for name, value in given.items()}


def _field(name: str, draw: Callable[[np.random.Generator], Any]) -> Draw:
    return lambda random: Bad(request(**{name: draw(random)}))


def _integer(low: int, high: int) -> Callable[[np.random.Generator], int]:
    return lambda random: int(random.integers(low, high))


def _word(random: np.random.Generator) -> str:
    return "".join(random.choice(list("abcxyz_ -é漢"), size=int(random.integers(1, 12)))) + "?"


def _not_utf8(random: np.random.Generator) -> bytes:
    return bytes(random.integers(0x80, 0xC0, size=int(random.integers(1, 40)), dtype=np.uint8)) + b"\xff"


def _odd_size(random: np.random.Generator) -> int:
    return int(random.integers(1, 16)) + 16 * int(random.integers(0, 16))


def _other_type(random: np.random.Generator) -> Bad:
    name = str(random.choice(["height", "num_frames", "seed", "guidance_scale", "fps"]))
    datatype = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32, "UINT8": np.uint8, "BOOL": np.bool_}
    wrong = str(random.choice([kind for kind in datatype if kind != TYPES[name].value]))
    return Bad(request(**{name: Sent(wrong, np.ones(1, dtype=datatype[wrong]))}))


def _several_values(random: np.random.Generator) -> Bad:
    name = str(random.choice(["height", "seed", "guidance_scale", "prompt"]))
    one = request(**({} if name == "prompt" else {name: 1}))[name]
    repeated = np.repeat(one.array, int(random.integers(2, 6)))
    return Bad(request(**{name: Sent(one.datatype, repeated)}))


def _more_axes(random: np.random.Generator) -> Bad:
    name = str(random.choice(["height", "seed", "fps"]))
    one = sent(name, 16)
    return Bad(request(**{name: Sent(one.datatype, one.array.reshape((1,) * int(random.integers(2, 5))))}))


def _no_values(random: np.random.Generator) -> Bad:
    name = str(random.choice(["height", "seed", "guidance_scale"]))
    one = sent(name, 16)
    return Bad(request(**{name: Sent(one.datatype, one.array[:0])}))


def _latents(*shape_of: Callable[[np.random.Generator], int]) -> Draw:
    def draw(random: np.random.Generator) -> Bad:
        shape = [size(random) for size in shape_of]
        return Bad(request(latents=Sent("FP32", np.zeros(shape, dtype=np.float32))))

    return draw


def _broken_latents(random: np.random.Generator) -> Bad:
    latents = random.standard_normal((1, 16, 1, 4, 4), dtype=np.float32)
    latents[0, int(random.integers(16)), 0, 0, 0] = random.choice([np.nan, np.inf, -np.inf])
    return Bad(request(latents=Sent("FP32", latents)))


def _unknown_input(random: np.random.Generator) -> Bad:
    name = str(random.choice(["hight", "Prompt", "steps", "negative prompt", "x" * 300]))
    return Bad(request() | {name: Sent("INT32", np.ones(1, dtype=np.int32))})


def _unknown_parameter(random: np.random.Generator) -> Bad:
    name = str(random.choice(["hight", "num_steps", "guidance", "cfg", "negative"]))
    return Bad(request(), {name: random.choice(["1", "yes"]).item()})


def _constant(size: int) -> Callable[[np.random.Generator], int]:
    return lambda random: size


def _any_of(*values: Any) -> Callable[[np.random.Generator], Any]:
    return lambda random: values[int(random.integers(len(values)))]


# JSON has no tensor types or shapes: Triton converts numbers to the field's type and flattens nested lists.
ONLY_OVER_GRPC = frozenset({"field of another type", "more axes than one"})

CLASSES: dict[str, Draw] = {
    "no prompt": lambda random: Bad(request(prompt=None)),
    "empty prompt": _field("prompt", _any_of("", " ", "\n\t ", "​" * 0)),
    "prompt that is not UTF-8": _field("prompt", _not_utf8),
    "prompt that is too long": _field("prompt", lambda random: "x" * int(random.integers(65537, 300_000))),
    "negative prompt that is not UTF-8": _field("negative_prompt", _not_utf8),
    "height off the grid": _field("height", _odd_size),
    "height zero or below": _field("height", _integer(-(2**31), 1)),
    "height beyond what is served": _field("height", lambda random: 16 * int(random.integers(17, 2**26))),
    "width off the grid": _field("width", _odd_size),
    "width zero or below": _field("width", _integer(-(2**31), 1)),
    "width beyond what is served": _field("width", lambda random: 16 * int(random.integers(17, 2**26))),
    "frames off the grid": _field("num_frames", lambda random: 4 * int(random.integers(0, 20)) + 2),
    "frames zero or below": _field("num_frames", _integer(-(2**31), 1)),
    "frames beyond what is served": _field("num_frames", lambda random: 4 * int(random.integers(21, 2**28)) + 1),
    "no steps": _field("num_inference_steps", _integer(-(2**31), 1)),
    "too many steps": _field("num_inference_steps", _integer(1001, 2**31)),
    "guidance that is no number": _field("guidance_scale", _any_of(np.nan, np.inf, -np.inf)),
    "negative guidance": _field("guidance_scale", lambda random: -float(random.random() + 1e-3) * 100),
    "guidance too large": _field("guidance_scale", _any_of(100.001, 1e30, 1e38, 3e38)),
    "second guidance that is no number": _field("guidance_scale_2", _any_of(np.nan, np.inf, -np.inf)),
    "second guidance out of range": _field("guidance_scale_2", _any_of(-1e-3, -100.0, 100.001, 5e37)),
    "flow shift zero or below": _field("flow_shift", lambda random: -float(random.random()) * 10),
    "flow shift too small": _field("flow_shift", _any_of(0.0, 0.00999, 1e-30, 1e-44)),
    "flow shift too large or no number": _field("flow_shift", _any_of(100.5, 1e30, np.nan, np.inf)),
    "unknown solver": _field("solver", _word),
    "unknown step profile": _field("step_profile", _word),
    "step profile that is not UTF-8": _field("step_profile", _not_utf8),
    "step cache out of range": _field("step_cache", _any_of(-0.01, 1.01, np.nan, np.inf)),
    "guidance skip out of range": _field("guidance_skip", _any_of(-1.0, 2.0, np.nan, -np.inf)),
    "step cache for too few steps": _field("step_cache", lambda random: float(random.uniform(0.01, 1.0))),
    "negative seed": _field("seed", _integer(-(2**63), 0)),
    "frame rate out of range": _field("fps", _any_of(0, -1, 121, 2**31 - 1)),
    "unknown output type": _field("output_type", _word),
    "unknown video encoding": _field("video_encoding", _word),
    "output type that is not UTF-8": _field("output_type", _not_utf8),
    "latents of another size": _latents(_constant(1), _constant(16), _integer(1, 4), _integer(5, 9), _integer(1, 9)),
    "latents of several clips": _latents(_integer(2, 4), _constant(16), _constant(1), _constant(4), _constant(4)),
    "latents with other channels": _latents(_constant(1), _integer(1, 16), _constant(1), _constant(4), _constant(4)),
    "latents with other axes": _latents(_constant(16), _constant(4), _constant(4)),
    "latents that are not finite": _broken_latents,
    "field of another type": _other_type,
    "several values for one": _several_values,
    "more axes than one": _more_axes,
    "no value for one": _no_values,
    "input that does not exist": _unknown_input,
    "parameter that does not exist": _unknown_parameter,
}
