"""torch on the CPU or a GPU: a checkpoint's module as a `torch.export` program, which torch alone can load."""

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.nn.attention import SDPBackend, sdpa_kernel

from wan_t2v.engines.engine import Array
from wan_t2v.engines.program_weights import ProgramWeights

_CONTIGUOUS = {"memory_format": torch.contiguous_format}
NAMES_FILE = "names.json"  # inside the program's archive: names of its inputs and outputs, and places of its weights
HOPPER = 9  # major compute capability
WEIGHTS = "weights"  # key in it, if the weights lie beside the program


class TorchEngine:
    """A BufferedEngine over one `torch.export` program, `model.pt2`. It allocates its outputs and ignores `buffers`.

    `threads` sets the threads of the whole process; 0 keeps torch's default. `compile_backend` is a backend of
    `torch.compile` (`inductor`); empty runs the operators uncompiled. `tf32` lets a GPU compute FP32 products in TF32;
    it also holds for the whole process, as the last loaded engine sets it. Raises ValueError for an archive that
    holds no such program, and FileNotFoundError or ValueError for weights beside it that are not those it was made for.
    """

    def __init__(
        self, path: Path, *, device: str = "cpu", threads: int = 0, compile_backend: str = "", tf32: bool = False
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        # cuDNN computes convolutions in TF32 by default.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        self._device = torch.device(device)
        program, names = _load(path)
        if WEIGHTS in names:
            _fill(program, ProgramWeights.from_json(names[WEIGHTS]), path.parent, device=self._device)
        if self._device.type != "cpu":
            program = move_to_device_pass(program, self._device)
        self._inputs, self._outputs = names["inputs"], names["outputs"]
        # The tracer's guards reject sizes of 1 (a clip one token high), which the operators compute correctly.
        self._module: Any = _clone_sliced_outputs(program.module(check_guards=False))
        self._attention = attention_kernels(self._device)
        if compile_backend:
            self._module = torch.compile(self._module, backend=compile_backend)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Tensor]:
        """Run the program; its outputs stay on its device. Raises ValueError if an input is missing or unknown."""
        if set(inputs) != set(self._inputs):
            raise ValueError(f"inputs are {sorted(inputs)}, accepted: {sorted(self._inputs)}")
        with torch.inference_mode(), self._attention():
            arguments = [torch.as_tensor(inputs[name]).to(self._device) for name in self._inputs]
            result = self._module(*arguments)
        results = dict(zip(self._outputs, (result,) if isinstance(result, Tensor) else result, strict=True))
        return {name: results[name] for name in (outputs if outputs is not None else self._outputs)}


def _clone_sliced_outputs(module: Any) -> Any:
    """Clone outputs that are slices as soon as they exist, so that the sliced tensors are freed.

    The VAE's caches are the last two frames of tensors that are up to three times as large.
    """
    graph = module.graph
    (end,) = graph.find_nodes(op="output")
    for answer in end.all_input_nodes:
        if answer.target is torch.ops.aten.slice.Tensor:
            with graph.inserting_after(answer):
                owned = graph.call_function(torch.ops.aten.clone.default, (answer,), _CONTIGUOUS)
            end.replace_input_with(answer, owned)
    graph.lint()
    module.recompile()
    return module


def attention_kernels(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return the context in which the device's kernels for attention are chosen.

    From Hopper on cuDNN's kernel comes first, which torch would take last: on an H200 a self-attention at 720x1280x81
    takes 203 ms with it and 326 ms with torch's flash kernel (docs/design/gpu.md). Where it does not apply, as in FP32,
    torch's own order holds.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < HOPPER:
        return contextlib.nullcontext
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return lambda: sdpa_kernel(order, set_priority=True)


def weights_beside(path: Path) -> ProgramWeights | None:
    """Read which weights lie beside a program. None if they are inside it. Raises ValueError for another archive."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(f"/{NAMES_FILE}"))
        names = json.loads(archive.read(name))
        return ProgramWeights.from_json(names[WEIGHTS]) if WEIGHTS in names else None


def _fill(program: Any, weights: ProgramWeights, folder: Path, *, device: torch.device) -> None:
    """Give the program's parameters their values. Raises FileNotFoundError or ValueError."""
    weights.check(folder)
    values = weights.read(folder, program.state_dict, device)
    program.state_dict.update((name, nn.Parameter(value, requires_grad=False)) for name, value in values.items())


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    extra = {NAMES_FILE: ""}
    with _readable(path):
        program = torch.export.load(path, extra_files=extra)
        return program, json.loads(extra[NAMES_FILE])


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what reading an archive raises into a ValueError that names the command to make it again."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read by torch {torch.__version__}: {error}. "
            "Make it again: python -m export.to_torch_program --checkpoint FOLDER"
        ) from error
