"""Changes that a LoRA makes to an expert: low-rank products and plain differences per tensor.

All names and shapes are checked before anything is written. Rules:

* weight += strength * alpha / rank * (up @ down); without a stated alpha, alpha is the rank
* weight += strength * `.diff`, bias += strength * `.diff_b`; also for norms and modulation tables
* bias += strength * alpha / rank * `lora_B.bias`
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from export.checkpoint.weights.safetensors_index import StoredTensor
from export.lora.complaints import Complaints
from export.lora.key_formats import LoraKey, Role, partner_of, read_key
from export.lora.lora_file import LoraError, LoraFile, read_fp32
from export.lora.module_names import spellings


@dataclass(frozen=True)
class Product:
    """Low-rank change of a weight: adds `factor * (up @ down)`."""

    up: StoredTensor
    down: StoredTensor
    factor: float


@dataclass(frozen=True)
class Offset:
    """Plain change of a tensor: adds `factor * values`."""

    values: StoredTensor
    factor: float


Change = Product | Offset
_FACTORS = {Role.DOWN: Role.UP, Role.UP: Role.DOWN}  # each factor's other factor, which must be there too


def changes_of(
    lora: LoraFile, component: str, stored: Mapping[str, StoredTensor], *, some_blocks: bool = False
) -> dict[str, tuple[Change, ...]]:
    """Return the changes that the file makes to an expert, by the names of the expert's tensors `stored`.

    With `some_blocks` the file may change a module in some blocks and not in others.
    Raises LoraError with all tensors that do not fit.
    """
    return _Reading(lora, component, stored).changes(some_blocks=some_blocks)


@dataclass
class _Reading:
    """Reader of one file for one expert. `keys` has the file's tensor name by module and role."""

    lora: LoraFile
    component: str
    stored: Mapping[str, StoredTensor]
    keys: dict[LoraKey, str] = field(default_factory=dict)
    changed: dict[str, list[Change]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.complaints = Complaints(str(self.lora.path), self.component, self.stored)

    def changes(self, *, some_blocks: bool) -> dict[str, tuple[Change, ...]]:
        self._understand()
        self.complaints.raise_if_foreign()
        if not some_blocks:
            self.complaints.check_blocks(self.keys.values())
        for key in self.keys:
            self._change(key)
        self.complaints.raise_if_any()
        return {name: tuple(changes) for name, changes in self.changed.items()}

    def _understand(self) -> None:
        modules = spellings(self.stored)
        for name in self.lora.tensors:
            key = read_key(name, modules)
            if key is None:
                self.complaints.surplus.append(name)
            elif key in self.keys:
                self.complaints.twice.append(f"{self.keys[key]} and {name}")
            else:
                self.keys[key] = name

    def _change(self, key: LoraKey) -> None:
        name, role = self.keys[key], key.role
        if role in _FACTORS and LoraKey(key.module, _FACTORS[role]) not in self.keys:
            self.complaints.lacks(partner_of(name), beside=name)
        elif role is Role.DOWN:
            self._add_product(key.module)
        elif role is Role.DIFF:
            self._add_offset(name, self._weight_of(key.module), 1.0)
        elif role is Role.BIAS_DIFF:
            self._add_offset(name, f"{key.module}.bias", 1.0)
        elif role in (Role.UP_BIAS, Role.ALPHA) and LoraKey(key.module, Role.DOWN) not in self.keys:
            self.complaints.surplus.append(f"{name} (of no product)")
        elif role is Role.UP_BIAS:
            self._add_offset(name, f"{key.module}.bias", self._factor(key.module))

    def _add_product(self, module: str) -> None:
        names = [self.keys[LoraKey(module, role)] for role in (Role.UP, Role.DOWN)]
        up, down = (self.lora.tensors[name] for name in names)
        target = self.stored.get(f"{module}.weight")
        if target is None or len(target.shape) < 2:
            self.complaints.surplus += names
            return
        rank = down.shape[0] if down.shape else 0
        if rank < 1 or down.shape[1:] not in (target.shape[1:], (math.prod(target.shape[1:]),)):
            expected = ", ".join(map(str, ("rank", *target.shape[1:])))
            self.complaints.misshapen.append(f"{names[1]} is {down.shape}, expected ({expected})")
        elif up.shape[:2] != (target.shape[0], rank) or math.prod(up.shape[2:]) != 1:
            self.complaints.misshapen.append(f"{names[0]} is {up.shape}, expected ({target.shape[0]}, {rank})")
        else:
            change = Product(up, down, self._factor(module))
            self.changed.setdefault(f"{module}.weight", []).append(change)

    def _add_offset(self, name: str, target: str, factor: float) -> None:
        values = self.lora.tensors[name]
        if target not in self.stored:
            self.complaints.surplus.append(name)
        elif values.shape != self.stored[target].shape:
            self.complaints.misshapen.append(f"{name} is {values.shape}, expected {self.stored[target].shape}")
        else:
            self.changed.setdefault(target, []).append(Offset(values, factor))

    def _weight_of(self, module: str) -> str:
        """Return the tensor that `.diff` changes: the module's weight, or a parameter that has the module's name."""
        return module if module in self.stored else f"{module}.weight"

    def _factor(self, module: str) -> float:
        """Return alpha / rank. An `.alpha` tensor takes precedence over the adapter config."""
        down = self.keys.get(LoraKey(module, Role.DOWN))
        rank = self.lora.tensors[down].shape[0] if down and self.lora.tensors[down].shape else 1
        alpha = self.keys.get(LoraKey(module, Role.ALPHA))
        if alpha is None:
            spelt = (down or "").rpartition(".lora_")[0]  # patterns match the names used in training
            return self.lora.config.factor((module, spelt), rank) if self.lora.config else 1.0
        tensor = self.lora.tensors[alpha]
        if math.prod(tensor.shape) != 1:
            self.complaints.misshapen.append(f"{alpha} is {tensor.shape}, expected one number")
            return 1.0
        value = float(read_fp32(tensor))
        if not math.isfinite(value) or value == 0.0:
            raise LoraError(f"{self.lora.path}: {alpha} is {value}, accepted: a finite number other than 0.")
        return value / rank
