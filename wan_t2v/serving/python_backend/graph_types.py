"""Element types of the graphs' inputs, which a config's parameters name as precisions."""

import torch

GRAPH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
