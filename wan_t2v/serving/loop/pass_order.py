"""The two guidance passes of a step: together, or in turn so that a cancellation stops the second.

Triton 2.51 cannot cancel a request in an expert's queue. If one GPU runs the passes one after the other anyway, passes
in turn cost only a call's latency, and a cancelled step ends after one pass.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.experts import Expert, Experts
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.started_pool import started_pool

TOGETHER, IN_TURN = "together", "in_turn"


def passes_in_turn(parameters: ModelParameters) -> bool:
    """Whether the parameter `guidance_passes` is `in_turn`; the default is `together`. Raises ParameterError."""
    return parameters.choice("guidance_passes", (TOGETHER, IN_TURN), TOGETHER) == IN_TURN


def pass_executor(in_turn: bool, at_once: int) -> Executor:
    """Make the executor of a step's negative pass, for `at_once` loops."""
    return InlineExecutor() if in_turn else started_pool(at_once, "negative-pass")


class InlineExecutor(Executor):
    """An executor that runs each call immediately, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call and return its finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def cancellable_experts(experts: Experts, is_cancelled: Callable[[], bool]) -> Experts:
    """Wrap the experts so that each pass first calls `is_cancelled`, and raises Cancelled if that returns true."""

    def asking(expert: Expert) -> Expert:
        def one_pass(latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
            if is_cancelled():
                raise Cancelled(f"cancelled before a pass at timestep {timestep}")
            return expert(latents, timestep, text_embeddings)

        return one_pass

    return replace(
        experts, high_noise_expert=asking(experts.high_noise_expert), low_noise_expert=asking(experts.low_noise_expert)
    )
