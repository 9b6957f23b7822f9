"""Count of integer matrix products in the graph that ONNX Runtime executes, which is its optimiser's output."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from export.graphs.precision import LINEARS_OF_A_BLOCK, blocks_in_int8
from export.parity.graph_parity import ParityError

INTEGER_PRODUCTS = ("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul")
_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


def check_integer_products(path: Path, blocks: int) -> None:
    """Refuse an expert with INT8 linear layers that ONNX Runtime computes in FP32. Raises ParityError.

    `blocks` is the expert's number of blocks.
    """
    expected = dict.fromkeys(blocks_in_int8(blocks), LINEARS_OF_A_BLOCK)
    counts = integer_products(path)
    if counts != expected:
        left = sum((Counter(expected) - counts).values())
        raise ParityError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} left {left} of {sum(expected.values())} INT8 layers in "
            "FP32. Use the onnxruntime of constraints.txt, or export with PRECISION=fp32."
        )


def integer_products(path: Path) -> Counter[int]:
    """Count integer matrix products per block. The name of the weight gives the block."""
    products: Counter[int] = Counter()
    for node in _optimised(path).graph.node:
        block = _BLOCK.search(node.input[1]) if node.op_type in INTEGER_PRODUCTS else None
        if block:
            products[int(block[1])] += 1
    return products


def _optimised(path: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="wan-t2v-optimised-") as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / path.name)
        options.log_severity_level = 3  # hides the warning that the optimised file is for this machine only
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath, load_external_data=False)
