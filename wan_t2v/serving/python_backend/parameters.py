"""Parameters of a Python model's config, its version folder and the models beside it, read once at start."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_t2v.installed_files import parse_installed
from wan_t2v.manifests import GRAPH_MANIFEST
from wan_t2v.serving.errors import ParameterError
from wan_t2v.shapes import VideoShape


@dataclass(frozen=True)
class ModelParameters:
    """A model's version folder and its config's `parameters`. The config has texts; these methods convert them.

    They raise ParameterError for a missing or invalid value.
    """

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
        """Return a text parameter, which must be present."""
        if name not in self.values:
            raise ParameterError(f"{self.model}: parameter {name} is missing from config.pbtxt")
        return self.values[name]

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return one of `choices`, or the default if the parameter is left out."""
        value = self.values.get(name, default)
        if value not in choices:
            accepted = ", ".join(choices)
            raise ParameterError(f"{self.model}: parameter {name} is {value!r}, accepted: {accepted}")
        return value

    def optional_path(self, name: str) -> Path | None:
        """Return a path, or None if the parameter is left out."""
        return Path(self.values[name]) if name in self.values else None

    def integer(self, name: str, *, least: int, default: int | None = None) -> int:
        """Return an integer of at least `least`; without a default, the parameter must be present."""
        value = self.text(name) if default is None else self.values.get(name, str(default))
        if not value.isdecimal() or int(value) < least:
            raise ParameterError(f"{self.model}: parameter {name} is {value!r}, accepted: an integer from {least} up")
        return int(value)

    def video_shape(self, name: str) -> VideoShape:
        """Return a clip's size, written `<height>x<width>x<frames>`."""
        return self._video_shape(name, self.text(name))

    def video_shapes(self, name: str) -> tuple[VideoShape, ...]:
        """Return clip sizes, separated by commas; an empty text has none."""
        return tuple(self._video_shape(name, part.strip()) for part in self.text(name).split(",") if part.strip())

    def optional_video_shapes(self, name: str) -> tuple[VideoShape, ...]:
        """Return clip sizes like `video_shapes`; none if the parameter is left out."""
        return self.video_shapes(name) if name in self.values else ()

    def beside(self, model: str) -> Path:
        """Return the folder of another model's version with the same number."""
        return version_beside(self.version_folder, model)

    def _video_shape(self, name: str, value: str) -> VideoShape:
        try:
            return VideoShape.parse(value)
        except ValueError as error:
            raise ParameterError(f"{self.model}: parameter {name} is {error}") from None


def version_beside(version_folder: Path, model: str) -> Path:
    """Return the folder of another model's version with the same number, in the same model repository."""
    return version_folder.parent.parent / model / version_folder.name


def instance_device(args: Mapping[str, str]) -> str:
    """Return the device of this model instance by torch's name: `cpu`, or `cuda:<n>`."""
    on_gpu = args["model_instance_kind"] == "GPU"
    return f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"


def graph_identity(parameters: ModelParameters, graph: str) -> str:
    """Identify the build of a graph beside this model: the first 16 hex digits of its hash, from its manifest."""
    digest: str = read_graph_manifest(parameters.beside(graph))["onnx_sha256"]
    return digest[:16]


def graph_build(parameters: ModelParameters, graph: str) -> str:
    """Identify a graph beside this model with what runs it: its manifests, and its configurations.

    Another engine, precision or plan computes other bytes from the same graph. Returns a SHA-256 in hex.
    """
    version = parameters.beside(graph)
    described = (*version.glob("*.json"), *version.parent.glob("config.pbtxt"), *version.parent.glob("configs/*.pbtxt"))
    digest = hashlib.sha256()
    for path in sorted(described):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def graph_loras(parameters: ModelParameters, graph: str) -> list[dict[str, Any]]:
    """Return the LoRAs merged into a graph beside this model, as in its manifest; empty for most graphs."""
    return list(read_graph_manifest(parameters.beside(graph)).get("loras", ()))


def read_graph_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a graph's version folder as JSON.

    Raises FileNotFoundError or InstalledFileError, with the command that makes it.
    """
    return parse_installed(folder / GRAPH_MANIFEST, lambda text: dict(json.loads(text)))
