"""The model control of a server whose one GPU holds one expert at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

from wan_t2v.operate.model_control import ModelControlError

HIGH, LOW = "high_noise_expert", "low_noise_expert"
GPU_BYTES, PLAN_BYTES = 100, 60  # both experts do not fit


@dataclass
class FakeServer:
    """The model control of a server with one small GPU: it unloads as late as Triton does, tells of that in its index,
    and cannot load what does not fit.
    """

    loaded: set[str] = field(default_factory=lambda: {HIGH, LOW})
    held: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    frees_after_calls: int = 3  # of free_bytes(), once the index calls it gone
    unloads_after_calls: int = 2  # of state()
    broken: set[str] = field(default_factory=set)
    on_load: Callable[[str], None] = lambda name: None

    def __post_init__(self) -> None:
        one = len(self.loaded) == 1  # a server that began with both has memory for both
        self.held = dict.fromkeys(self.loaded, PLAN_BYTES if one else 0)
        self._unloading: dict[str, int] = {}
        self._freeing: dict[str, int] = {}

    def state(self, name: str) -> str:
        if name in self._unloading:
            self._unloading[name] -= 1
            if self._unloading[name] > 0:
                return "UNLOADING"
            del self._unloading[name]
            self._freeing[name] = self.frees_after_calls
        return "READY" if name in self.loaded else "UNAVAILABLE"

    def unload(self, name: str) -> None:
        self.done.append(f"unload {name}")
        self.loaded.remove(name)
        self._unloading[name] = self.unloads_after_calls

    def load(self, name: str) -> None:
        self.done.append(f"load {name}")
        self.on_load(name)
        if name in self.broken or self.free_bytes() < PLAN_BYTES:
            raise ModelControlError(f"failed to load '{name}': out of memory")
        self.loaded.add(name)
        self.held[name] = PLAN_BYTES

    def free_bytes(self) -> int:
        for name in list(self._freeing):
            self._freeing[name] -= 1
            if self._freeing[name] <= 0:
                del self._freeing[name]
                self.held.pop(name)
        return GPU_BYTES - sum(self.held.values())
