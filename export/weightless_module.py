"""Export form of a module without its weights, for checkpoints that are too large to load.

Parameters are fake tensors, which have a type and a shape but no values. Tracing an expert of A14B takes under 2 GB.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.checkpoint.meta_module import is_fp32_island
from export.graphs.precision import torch_dtype
from export.graphs.registry import GRAPHS, ExampleCall
from wan_t2v.facts import ModelFacts

EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)


@dataclass(frozen=True)
class WeightlessModule:
    """A module of fake tensors and the call to trace. Both must be used inside `mode`."""

    module: nn.Module
    call: ExampleCall
    mode: FakeTensorMode


def weightless_module(shell: nn.Module, graph: str, facts: ModelFacts, precision: str) -> WeightlessModule:
    """Make the export form of `graph` of the module of `shell_of`, in a precision.

    For FP8 and INT8 the module must be quantised already.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        _fill_with_fakes(shell, torch_dtype(precision))
    exportable = GRAPHS[graph].module(shell).eval()
    with mode:
        call = GRAPHS[graph].example(facts, exportable)
    return WeightlessModule(exportable, call, mode)


def _fill_with_fakes(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every parameter by a fake tensor of the type that `from_pretrained(torch_dtype=dtype)` gives."""
    fakes: dict[int, nn.Parameter] = {}  # by id, so that tied parameters stay tied
    for prefix, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            island = is_fp32_island(module, f"{prefix}.{name}")
            kept_type = parameter.dtype if parameter.dtype in EIGHT_BITS else dtype
            fake = torch.empty(parameter.shape, dtype=torch.float32 if island else kept_type, device="cpu")
            setattr(child, name, fakes.setdefault(id(parameter), nn.Parameter(fake, requires_grad=False)))
