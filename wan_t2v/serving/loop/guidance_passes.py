"""The two guidance passes of a step: together, or in turn so that a cancellation stops the second.

What was handed to an expert's queue cannot be taken back from 2.51. Where one GPU runs the passes one after the other
anyway, handing them over in turn costs a call's way there, and a step that nobody wants ends after one pass.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.experts import Expert, Experts
from wan_t2v.serving.python_backend.parameters import ModelParameters

TOGETHER, IN_TURN = "together", "in_turn"


def passes_in_turn(parameters: ModelParameters) -> bool:
    """By the parameter `guidance_passes`; together if it is left out. Raises ParameterError."""
    return parameters.choice("guidance_passes", (TOGETHER, IN_TURN), TOGETHER) == IN_TURN


def pass_executor(in_turn: bool, at_once: int) -> Executor:
    """What runs a step's other pass, for `at_once` loops."""
    return InlineExecutor() if in_turn else ThreadPoolExecutor(at_once, thread_name_prefix="negative-pass")


class InlineExecutor(Executor):
    """Runs what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def cancellable_experts(experts: Experts, is_cancelled: Callable[[], bool]) -> Experts:
    """The experts, asking before each pass whether anybody still wants it. A pass raises Cancelled if not."""

    def asking(expert: Expert) -> Expert:
        def one_pass(latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
            if is_cancelled():
                raise Cancelled(f"cancelled before a pass at timestep {timestep}")
            return expert(latents, timestep, text_embeddings)

        return one_pass

    return replace(
        experts, high_noise_expert=asking(experts.high_noise_expert), low_noise_expert=asking(experts.low_noise_expert)
    )
