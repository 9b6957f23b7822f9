"""Choice of one LoRA per expert. Both must be named, and a file that is clearly for the other expert is refused."""

import math
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.lora.file_names import expert_by_name
from export.lora.key_formats import SECOND_EXPERT
from export.lora.lora_file import LoraError, LoraFile

HIGH, LOW = EXPERT_COMPONENTS
NONE = "none"
_VARIABLES = {HIGH: "LORA_HIGH", LOW: "LORA_LOW"}
_WORDS = {HIGH: "high", LOW: "low"}


@dataclass(frozen=True)
class LoraChoice:
    """LoRA files to merge, and how.

    Attributes:
        high, low: files for the two experts; `none` leaves an expert unchanged.
        scale: strength of both; 1.0 is the strength of training.
        same_file: one file is meant for both experts.
        some_blocks: a file may change only some of the blocks.

    Raises LoraError if only one expert is named, if both are `none`, or for a scale of 0 or that is not finite.
    """

    high: str | None
    low: str | None
    scale: float = 1.0
    same_file: bool = False
    some_blocks: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0.0:
            raise LoraError(f"LORA_SCALE={self.scale:g}: accepted is a finite number other than 0; 1.0 is as trained.")
        if bool(self.high) != bool(self.low):
            given, lacking = ("LORA_HIGH", "LORA_LOW") if self.high else ("LORA_LOW", "LORA_HIGH")
            raise LoraError(
                f"{given}={self.high or self.low} came without {lacking}: the model has two experts. "
                f"Name the file for the other one, or {lacking}={NONE} to leave it as it is."
            )
        if {self.high or NONE, self.low or NONE} == {NONE}:
            raise LoraError("No LoRA came: LORA_HIGH and LORA_LOW name a .safetensors file each.")

    def open_files(self) -> dict[str, LoraFile]:
        """Open the files, by component, and check that each is for its expert. Raises LoraError."""
        chosen = {HIGH: self.high, LOW: self.low}
        files = {component: LoraFile.open(Path(name)) for component, name in chosen.items() if name and name != NONE}
        for component, file in files.items():
            _check_expert(component, file)
        if len(files) == 2 and files[HIGH].sha256 == files[LOW].sha256 and not self.same_file:
            raise LoraError(
                f"LORA_HIGH={self.high} and LORA_LOW={self.low} are the same file (SHA-256 {files[HIGH].sha256[:16]}). "
                "Each expert has its own; if this one is meant for both, say so: LORA_OPTIONS=--same-file."
            )
        return files


def _check_expert(component: str, file: LoraFile) -> None:
    """Refuse a file whose name or tensor names say that it is for the other expert. Raises LoraError."""
    other = LOW if component == HIGH else HIGH
    if expert_by_name(file.path) == _WORDS[other]:
        raise LoraError(
            f"{_VARIABLES[component]}={file.path}: by its name the file is for the {_WORDS[other]}-noise expert. "
            f"Give it as {_VARIABLES[other]}; if the name is wrong, rename the file."
        )
    named = next((name for name in file.tensors if name.startswith(SECOND_EXPERT)), None)
    if component == HIGH and named:
        raise LoraError(
            f"LORA_HIGH={file.path} has {named}, a tensor of the low-noise expert (transformer_2). "
            "Give the file as LORA_LOW; accepted here: names that begin with transformer., or with no component."
        )
