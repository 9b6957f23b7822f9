"""Experts as torch programs in place of plans: memory, layouts, configs and the command that makes the programs."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from export.__main__ import main, parser
from export.placement.alternatives import find_alternatives
from export.placement.configs import (
    launcher_command,
    placed_configs,
    programs_command,
    server_options,
    torch_graphs,
)
from export.placement.gpu_memory import PROCESS_BYTES, SettingsError, VaeEngine
from export.placement.layouts import Layout, Placement
from export.placement.pick_layout import best_of_each_layout, placements
from export.placement.report import report_lines
from export.placement.torch_memory import TORCH_ACTIVATIONS
from tests.unit.export.placement.arrangements import asked, decided, gpus
from wan_t2v.contract import EXPERTS

WITHOUT_TENSORRT = {"experts_in_torch": True, "text_encoder_device": "cpu", "vae_engine": VaeEngine.TORCH}


@pytest.fixture
def placement() -> Placement:
    found = decided("480x832", "141", **WITHOUT_TENSORRT)
    assert found is not None and found.layout is Layout.BOTH
    return found


def test_each_expert_has_a_process_and_torchs_activations(placement: Placement) -> None:
    plans = decided("480x832", "141")
    assert plans is not None
    for expert in EXPERTS:
        torch, plan = (next(u for u in p.memory_uses if u.component == expert) for p in (placement, plans))
        assert torch.weights == plan.weights and torch.bindings == plan.bindings
        assert torch.context == TORCH_ACTIVATIONS * plan.context
        assert (torch.other, torch.estimated) == (PROCESS_BYTES, torch.context + PROCESS_BYTES)


def test_one_program_serves_all_sizes(placement: Placement) -> None:
    several = asked("480x832", "720x1280", **WITHOUT_TENSORRT)
    (both, *_) = best_of_each_layout(several, gpus("141"))
    one = next(u for u in best_of_each_layout(asked("720x1280", **WITHOUT_TENSORRT), gpus("141"))[0].memory_uses)
    assert next(u for u in both.memory_uses if u.component == one.component).context == one.context


def test_an_expert_opens_the_gpus_of_its_callers(placement: Placement) -> None:
    """The denoiser's latents lie on the first GPU, and CUDA takes memory there for each process that opens them."""
    each = placements(asked("480x832", **WITHOUT_TENSORRT), gpus("141", "141"), Layout.EXPERT_EACH)[0]
    uses = [use for use in each.memory_uses if use.component in EXPERTS]
    assert [(use.component, use.gpu, use.weights > 0) for use in uses] == [
        (EXPERTS[0], 0, True), (EXPERTS[1], 1, True), (EXPERTS[1], 0, False)]  # fmt: skip
    assert uses[2].total == uses[2].estimated == PROCESS_BYTES


@pytest.mark.parametrize(("sizes", "layouts"), [(("80",), 1), (("80", "80"), 2)])
def test_programs_are_not_swapped(sizes: tuple[str, ...], layouts: int) -> None:
    memory = asked("720x1280", **WITHOUT_TENSORRT)
    tried = best_of_each_layout(memory, gpus(*sizes))
    assert len(tried) == layouts and Layout.ONE_AT_A_TIME not in {placement.layout for placement in tried}
    changes = [alternative.change for alternative in find_alternatives(memory, gpus(*sizes))]
    assert changes and not [change for change in changes if "fp8" in change or "one expert at a time" in change]


def test_the_experts_run_in_the_python_backend_on_the_gpu(placement: Placement, root: Path) -> None:
    configs = placed_configs(placement, root / "model_repository")
    for expert in EXPERTS:
        config = configs[expert]
        told = {name: value.string_value for name, value in config.parameters.items()}
        assert config.backend == "python" and not config.instance_group[0].profile
        assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
        assert told == {"engine": "torch", "FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
    assert "vae_decoder_first" not in configs and "--load-model=vae_decoder_first" not in server_options(
        placement, root / "model_repository", "x"
    )


def test_the_programs_command_names_every_graph_and_precision(placement: Placement) -> None:
    assert set(torch_graphs(placement)) == {"text_encoder", *EXPERTS, "vae_decoder_first", "vae_decoder_next"}
    command = programs_command(placement, Path("models"))
    precisions = "--text-encoder-precision bf16 --precision bf16 --vae-precision fp32"
    assert command.endswith(f"{precisions} --exported --default-size 480x832x81")
    options = parser().parse_args(["torch-program", *command.split()[3:]])
    assert options.exported is True and options.default_size == "480x832x81"


def test_all_of_it_can_be_served_without_a_container(placement: Placement, root: Path) -> None:
    command = launcher_command(placement, root / "model_repository", "torch")
    words = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    assert command.startswith("make serve ") and words["CONFIG_NAME"] == "torch"
    assert {*EXPERTS, "text_encoder", "vae_decoder"} < {*words["MODELS"].split()}
    assert not {"vae_decoder_first", "vae_decoder_next"} & {*words["MODELS"].split()}
    assert int(words["CUDA_POOL_BYTES"]) == placement.pool_bytes(0)


@pytest.mark.parametrize("setting", [{"vae_engine": VaeEngine.IN_PROCESS}, {"text_encoder_device": "gpu"}, {}])
def test_plans_are_not(setting: dict[str, Any], root: Path) -> None:
    settings = {**WITHOUT_TENSORRT, **setting} if setting else {}
    plans = decided("480x832", "141", **settings)
    assert plans is not None and launcher_command(plans, root / "model_repository", "x") == ""


def test_nor_are_two_gpus(root: Path) -> None:
    two = best_of_each_layout(asked("480x832", **WITHOUT_TENSORRT), gpus("141", "141"))[0]
    assert launcher_command(two, root / "model_repository", "x") == ""


def test_the_report_says_that_they_need_no_plan(placement: Placement) -> None:
    lines = list(report_lines([placement], placement, []))
    assert "experts in torch: asked for; each has a process of its own and needs no plan" in lines


def test_precisions_that_torch_programs_do_not_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="accepted with --experts-engine torch: bf16, fp16, fp32"):
        asked("720x1280", experts="fp8", experts_in_torch=True)
    with pytest.raises(SystemExit):
        main(["placement", "--gpu", "141", "--size", "720x1280", "--precision", "fp8", "--experts-engine", "torch"])
    assert "torch programs do not have" in capsys.readouterr().err


def test_the_command_prints_the_programs_that_it_needs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = ["--repository", str(root / "model_repository")]
    engines = ["--experts-engine", "torch", "--text-encoder", "cpu", "--vae-engine", "torch"]
    assert main(["placement", "--gpu", "141", "--size", "480x832", *engines, *repository, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["placement"]["experts_engine"] == "torch" and set(EXPERTS) <= set(told["programs"])
