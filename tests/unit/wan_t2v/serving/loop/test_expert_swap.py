"""One expert at a time: the order of unloading, waiting and loading, the lock, and every way in which it can fail."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.one_gpu_server import HIGH, LOW, PLAN_BYTES, FakeServer
from tests.fakes.pb_utils import FakeExpert, FakeTritonError
from wan_t2v.cancellation import Cancelled
from wan_t2v.experts import Experts
from wan_t2v.operate.model_control import ModelControlError
from wan_t2v.serving.errors import ModelCallError, ParameterError
from wan_t2v.serving.loop import expert_lock, expert_swap
from wan_t2v.serving.loop.expert_swap import ExpertSwap, swap_report, swaps_experts
from wan_t2v.serving.python_backend.parameters import ModelParameters

EXPERTS = Experts(FakeExpert(1.0), FakeExpert(2.0), boundary_timestep=875.0)


def swap_on(server: FakeServer, **settings: object) -> ExpertSwap:
    options = {
        "plan_bytes": {HIGH: PLAN_BYTES, LOW: PLAN_BYTES},
        "free_bytes": server.free_bytes,
        "processes": lambda name: 0,
        "lock_name": f"wan-t2v-test-{time.monotonic_ns()}",
        **settings,
    }
    return ExpertSwap(FakeTritonError, server, **options)  # type: ignore[arg-type]


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(expert_swap, "POLL_S", 0.001)
    monkeypatch.setattr(expert_lock, "POLL_S", 0.001)
    monkeypatch.setattr(expert_swap, "SLACK_BYTES", 0)
    yield


@pytest.fixture
def one_loaded() -> FakeServer:
    return FakeServer(loaded={HIGH})


def clip(swap: ExpertSwap, is_cancelled: Callable[[], bool] = never) -> None:
    """The experts as a clip asks for them."""
    with swap.turn(EXPERTS, is_cancelled) as experts:
        for name in (HIGH, HIGH, LOW, LOW):
            expert = experts[name]
            assert expert is EXPERTS[name]
            assert swap.control.loaded == {name}  # type: ignore[attr-defined]


def test_an_expert_is_unloaded_before_the_other_is_loaded_and_once_a_clip(one_loaded: FakeServer) -> None:
    swap = swap_on(one_loaded)
    clip(swap)
    assert one_loaded.done == [f"unload {HIGH}", f"load {LOW}"]
    one_loaded.done.clear()
    clip(swap)
    assert one_loaded.done == [f"unload {LOW}", f"load {HIGH}", f"unload {HIGH}", f"load {LOW}"]


def test_the_time_of_both_exchanges_is_reported(one_loaded: FakeServer) -> None:
    with swap_on(one_loaded).turn(EXPERTS, never) as experts:
        assert swap_report(experts) == {"swap_ms": 0.0}
        _ = experts[HIGH], experts[LOW]
        assert len(experts.swaps_s) == 2 and swap_report(experts)["swap_ms"] > 0
    assert swap_report(EXPERTS) == {}


def test_loading_waits_until_the_memory_is_free(one_loaded: FakeServer) -> None:
    """Triton calls a model not ready at once; this one gives its memory back late, and the load would fail before."""
    one_loaded.frees_after_calls = 20
    clip(swap_on(one_loaded))
    assert one_loaded.held == {LOW: PLAN_BYTES}


def test_loading_waits_until_the_processes_have_ended(one_loaded: FakeServer) -> None:
    living = [2, 2, 1, 0]
    swap = swap_on(one_loaded, processes=lambda name: living.pop(0) if len(living) > 1 else living[0])
    one_loaded.on_load = lambda name: one_loaded.done.append(f"processes {living[0]}")
    clip(swap)
    assert one_loaded.done == [f"unload {HIGH}", f"load {LOW}", "processes 0"]


def test_a_server_that_began_with_both_gives_up_the_second() -> None:
    server = FakeServer(loaded={HIGH, LOW})
    clip(swap_on(server, plan_bytes={}))
    assert server.done[0] == f"unload {LOW}"
    assert f"load {HIGH}" not in server.done


def test_memory_that_never_comes_free_is_an_error_and_nothing_is_loaded(one_loaded: FakeServer) -> None:
    one_loaded.frees_after_calls = 10**9
    with pytest.raises(ModelCallError, match=f"{HIGH}: it was not gone .* after it was unloaded") as error_response:
        clip(swap_on(one_loaded, freed_limit_s=0.02))
    assert error_response.value.code == "UNAVAILABLE"
    assert f"load {LOW}" not in one_loaded.done


def test_a_failed_load_is_told_and_the_next_clip_recovers(one_loaded: FakeServer) -> None:
    swap = swap_on(one_loaded)
    one_loaded.broken = {LOW}
    with pytest.raises(ModelCallError, match=f"{LOW}: could not be swapped in .*out of memory") as error_response:
        clip(swap)
    assert error_response.value.code == "UNAVAILABLE"
    assert one_loaded.loaded == set()
    one_loaded.broken = set()
    clip(swap)
    assert one_loaded.loaded == {LOW}


def test_after_a_failed_load_no_expert_counts_as_loaded(one_loaded: FakeServer) -> None:
    one_loaded.broken = {LOW}
    with swap_on(one_loaded).turn(EXPERTS, never) as experts:
        _ = experts[HIGH]
        with pytest.raises(ModelCallError):
            _ = experts[LOW]
        _ = experts[HIGH]
    assert one_loaded.loaded == {HIGH}


def test_a_caller_who_leaves_during_a_load_is_noticed_then_and_the_next_clip_waits_for_its_end(
    one_loaded: FakeServer,
) -> None:
    """A load cannot be taken back. Until it is over nobody else may touch the experts."""
    begun, may_end = threading.Event(), threading.Event()

    def load_slowly(name: str) -> None:
        begun.set()
        assert may_end.wait(60)

    one_loaded.on_load = load_slowly
    swap = swap_on(one_loaded)
    with pytest.raises(Cancelled, match=f"cancelled while {LOW} was loaded"):
        clip(swap, begun.is_set)
    assert one_loaded.loaded == set(), "the load was still under way"
    assert expert_lock.try_bind(swap.lock_name) is None
    with pytest.raises(Cancelled, match="another clip had the experts"):
        clip(swap, lambda: True)
    may_end.set()
    clip(swap)
    assert one_loaded.done.count(f"load {LOW}") == 2, "the first load came to its end"


def test_the_callers_are_told_of_a_load_and_of_nothing_else(one_loaded: FakeServer) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def loading() -> Iterator[None]:
        told.append("begins")
        one_loaded.on_load = lambda name: told.append(f"loads {name}")
        yield
        told.append("ends")

    with swap_on(one_loaded).turn(EXPERTS, never, loading) as experts:
        for name in (HIGH, HIGH, LOW, LOW):
            _ = experts[name]
    assert told == ["begins", "ends", "begins", f"loads {LOW}", "ends"]


def test_what_the_server_must_be_told_first_is_no_reason_to_try_again(one_loaded: FakeServer) -> None:
    def refuse(name: str) -> None:
        raise ModelControlError("the server wants the administrator's key", passes=False)

    one_loaded.on_load = refuse
    with pytest.raises(
        ModelCallError, match=f"{LOW}: could not be swapped in for {HIGH}: the server wants"
    ) as error_response:
        clip(swap_on(one_loaded))
    assert error_response.value.code == "INTERNAL"


def test_an_expert_that_is_still_on_its_way_out_is_waited_for(one_loaded: FakeServer) -> None:
    """As after a turn that ended in the wait: Triton refuses to load what it is unloading."""
    one_loaded.unloads_after_calls, one_loaded.frees_after_calls = 5, 1
    one_loaded.unload(HIGH)

    def load_what_is_gone(name: str) -> None:
        assert one_loaded.state(name) == "UNAVAILABLE"

    one_loaded.on_load = load_what_is_gone
    clip(swap_on(one_loaded, plan_bytes={}))


def test_others_who_take_memory_of_the_gpu_meanwhile_do_not_hold_up_the_load(
    one_loaded: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_swap, "SLACK_BYTES", 20)
    taken = iter([0, *[10] * 1000])
    clip(swap_on(one_loaded, free_bytes=lambda: one_loaded.free_bytes() - next(taken)))


def test_a_caller_who_left_while_another_clip_has_the_experts_does_not_wait(one_loaded: FakeServer) -> None:
    swap = swap_on(one_loaded)
    with (
        swap.turn(EXPERTS, never),
        pytest.raises(Cancelled, match="another clip had the experts"),
        swap.turn(EXPERTS, lambda: True),
    ):
        pass


def test_clips_take_turns(one_loaded: FakeServer) -> None:
    """Two denoisers of one server. Without the lock one would unload the expert that the other is using."""
    inside: list[int] = []
    most: list[int] = []
    name = f"wan-t2v-test-{time.monotonic_ns()}"

    def denoise() -> None:
        with swap_on(one_loaded, lock_name=name).turn(EXPERTS, never) as experts:
            for expert in (HIGH, LOW):
                _ = experts[expert]
                inside.append(1)
                time.sleep(0.01)
                most.append(len(inside))
                assert one_loaded.loaded == {expert}
                inside.pop()

    threads = [threading.Thread(target=denoise, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_failure_gives_the_turn_back(one_loaded: FakeServer) -> None:
    swap = swap_on(one_loaded)
    with pytest.raises(RuntimeError), swap.turn(EXPERTS, never):
        raise RuntimeError("a pass failed")
    clip(swap)


def test_the_python_backends_own_model_control_is_not_used(root: Path) -> None:
    """It silences the process while it runs, and fails in ways of its own: see `wan_t2v/serving/loop/expert_swap.py`."""
    paths = list((root / "wan_t2v/serving").rglob("*.py"))
    assert len(paths) > 30
    for path in paths:
        for call in ("load_model(", "is_model_ready("):
            assert call not in path.read_text(encoding="utf-8"), path


def test_the_size_of_a_plan_is_what_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / HIGH / "1").mkdir(parents=True)
    (tmp_path / HIGH / "1/model.plan").write_bytes(b"12345")
    assert expert_swap.plan_sizes(ModelParameters("denoiser", tmp_path / "denoiser/1", {})) == {HIGH: 5}


@pytest.mark.parametrize(("values", "swaps"), [({}, False), ({"expert_residency": "both"}, False),
                                               ({"expert_residency": "one_at_a_time"}, True)])  # fmt: skip
def test_the_residency_is_a_parameter(values: dict[str, str], swaps: bool) -> None:
    assert swaps_experts(ModelParameters("denoiser", Path(), values)) is swaps


def test_an_unknown_residency_stops_the_start() -> None:
    with pytest.raises(ParameterError, match="expert_residency is 'none', accepted: both, one_at_a_time"):
        swaps_experts(ModelParameters("denoiser", Path(), {"expert_residency": "none"}))
