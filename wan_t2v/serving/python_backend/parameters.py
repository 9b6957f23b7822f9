"""Parameters of a Python model's config, its version folder and its neighbours, read once at start."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_t2v.installed_files import parse_installed
from wan_t2v.serving.errors import ParameterError
from wan_t2v.shapes import VideoShape


@dataclass(frozen=True)
class ModelParameters:
    """A model's own version folder and the `parameters` of its config. All values are text there, typed here."""

    model: str
    version_folder: Path
    values: Mapping[str, str]

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> "ModelParameters":
        """Read the `args` of `TritonPythonModel.initialize`."""
        config: dict[str, Any] = json.loads(args["model_config"])
        values = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        return cls(config["name"], folder, values)

    def text(self, name: str) -> str:
        """A text parameter."""
        if name not in self.values:
            raise ParameterError(f"{self.model}: parameter {name} is missing from config.pbtxt")
        return self.values[name]

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of `choices`, or the default if the parameter is left out."""
        value = self.values.get(name, default)
        if value not in choices:
            accepted = ", ".join(choices)
            raise ParameterError(f"{self.model}: parameter {name} is {value!r}, accepted: {accepted}")
        return value

    def optional_path(self, name: str) -> Path | None:
        """A path, or None if the parameter is left out."""
        return Path(self.values[name]) if name in self.values else None

    def integer(self, name: str, *, least: int, default: int | None = None) -> int:
        """An integer parameter of at least `least`; one without a default must be there."""
        value = self.text(name) if default is None else self.values.get(name, str(default))
        if not value.isdecimal() or int(value) < least:
            raise ParameterError(f"{self.model}: parameter {name} is {value!r}, accepted: an integer from {least} up")
        return int(value)

    def video_shape(self, name: str) -> VideoShape:
        """A clip's size, `<height>x<width>x<frames>`."""
        return self._video_shape(name, self.text(name))

    def video_shapes(self, name: str) -> tuple[VideoShape, ...]:
        """Clip sizes separated by commas; an empty text is none."""
        return tuple(self._video_shape(name, part.strip()) for part in self.text(name).split(",") if part.strip())

    def optional_video_shapes(self, name: str) -> tuple[VideoShape, ...]:
        """As `video_shapes`; none if the parameter is left out."""
        return self.video_shapes(name) if name in self.values else ()

    def _video_shape(self, name: str, value: str) -> VideoShape:
        try:
            return VideoShape.parse(value)
        except ValueError as error:
            raise ParameterError(f"{self.model}: parameter {name} is {error}") from None


def instance_device(args: Mapping[str, str]) -> str:
    """Where Triton placed this instance, in torch's words: `cpu`, or `cuda:<n>`."""
    on_gpu = args["model_instance_kind"] == "GPU"
    return f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"


def graph_identity(parameters: ModelParameters, graph: str) -> str:
    """Which build of a neighbouring graph answers here: the start of its file's hash, from its manifest."""
    folder = parameters.version_folder
    digest: str = read_manifest(folder.parent.parent / graph / folder.name)["onnx_sha256"]
    return digest[:16]


def graph_loras(parameters: ModelParameters, graph: str) -> list[dict[str, Any]]:
    """What was merged into the weights of a neighbouring graph, as its manifest names it; empty for most."""
    folder = parameters.version_folder
    return list(read_manifest(folder.parent.parent / graph / folder.name).get("loras", ()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a graph's version folder. Raises FileNotFoundError naming the command that makes it."""
    return parse_installed(folder / "manifest.json", lambda text: dict(json.loads(text)))
