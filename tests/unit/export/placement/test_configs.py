"""The config set of a placement parses as Triton reads it and says what the placement says."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from export.placement.configs import placed_configs, programs_command, server_options, torch_graphs, write_configs
from export.placement.gpu_memory import SettingsError, VaeEngine
from export.placement.layouts import Layout, Placement
from tests.unit.export.placement.arrangements import BOTH, SWAPPED, TWO, placed
from wan_t2v.contract import STREAM, UNARY


def read(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


@pytest.mark.parametrize("placement", [SWAPPED, BOTH, TWO], ids=["swapped", "both", "two"])
def test_what_is_written_is_what_was_meant_and_complete(placement: Placement, copied: Path) -> None:
    meant = placed_configs(placement, copied)
    written = write_configs(placement, copied, "gpus")
    assert {path.relative_to(copied) for path in written} == {Path(model, "configs/gpus.pbtxt") for model in meant}
    for path in written:
        model = path.parents[1].name
        assert read(path) == meant[model] != read(copied / model / "config.pbtxt")
        original = read(copied / model / "config.pbtxt")
        assert [tensor.name for tensor in read(path).input] == [tensor.name for tensor in original.input]
        assert (read(path).backend, read(path).max_batch_size) == (original.backend, original.max_batch_size)


def test_an_expert_each_and_the_rest_where_the_placement_puts_it(copied: Path) -> None:
    configs = placed_configs(TWO, copied)
    found = {name: list(config.instance_group[0].gpus) for name, config in configs.items() if name != "prepare"}
    assert found == {
        "high_noise_expert": [0],
        "low_noise_expert": [1],
        "text_encoder": [TWO.text_encoder],
        "denoiser": [0],
        "vae_decoder": [TWO.vae],
    }
    for name in found:
        group = configs[name].instance_group[0]
        assert (len(configs[name].instance_group), group.kind, group.count) == (1, ModelInstanceGroup.KIND_GPU, 1)


def test_both_experts_on_both_gpus_are_one_instance_on_each(copied: Path) -> None:
    both = placed(Layout.BOTH, "80", "80", engine=VaeEngine.IN_PROCESS, experts="fp8")
    configs = placed_configs(both, copied)
    for expert in ("high_noise_expert", "low_noise_expert"):
        group = configs[expert].instance_group[0]
        assert (list(group.gpus), group.count) == ([0, 1], 1)


def test_swapping_is_told_to_the_denoiser_and_the_second_expert_is_not_loaded(copied: Path) -> None:
    configs = placed_configs(SWAPPED, copied)
    assert configs["denoiser"].parameters["expert_residency"].string_value == "one_at_a_time"
    assert configs["denoiser"].parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"
    options = server_options(SWAPPED, copied, "gpus")
    assert "--model-control-mode=explicit" in options
    assert "--load-model=high_noise_expert" in options and "--load-model=text_to_video" in options
    assert "--load-model=low_noise_expert" not in options
    assert "expert_residency" not in placed_configs(BOTH, copied)["denoiser"].parameters


def test_in_process_the_vaes_plans_are_not_loaded_by_triton(copied: Path) -> None:
    configs = placed_configs(TWO, copied)
    parameters = {key: value.string_value for key, value in configs["vae_decoder"].parameters.items()}
    assert parameters["engine_location"] == "in_process" and parameters["engine"] == "tensorrt"
    assert not configs.keys() & {"vae_decoder_first", "vae_decoder_next"}
    loaded = {option.partition("=")[2] for option in server_options(TWO, copied, "x") if "--load-model" in option}
    assert loaded == {path.parent.name for path in copied.glob("*/config.pbtxt")} - {
        "vae_decoder_first",
        "vae_decoder_next",
    }


def test_in_torch_the_vae_is_told_so_and_its_programs_are_needed(copied: Path) -> None:
    in_torch = placed(Layout.BOTH, "141", engine=VaeEngine.TORCH, sizes=("480x832", "832x480"))
    parameters = placed_configs(in_torch, copied)["vae_decoder"].parameters
    assert parameters["engine_location"].string_value == "in_process"
    assert parameters["engine"].string_value == "torch"
    assert torch_graphs(in_torch) == ["vae_decoder_first", "vae_decoder_next"] and torch_graphs(BOTH) == []
    command = programs_command(in_torch, copied)
    assert "--graph vae_decoder_first --graph vae_decoder_next --vae-precision fp32" in command
    loaded = {o.partition("=")[2] for o in server_options(in_torch, copied, "x") if o.startswith("--load-model")}
    assert loaded and not loaded & {"vae_decoder_first", "vae_decoder_next"}


def test_on_the_cpu_the_text_encoder_is_its_python_model_in_torch(copied: Path) -> None:
    on_cpu = placed(Layout.BOTH, "141", engine=VaeEngine.IN_PROCESS, text_encoder_device="cpu")
    config = placed_configs(on_cpu, copied)["text_encoder"]
    original = read(copied / "text_encoder/config.pbtxt")
    (group,) = config.instance_group
    assert (config.backend, group.kind, group.count, list(group.gpus)) == ("python", ModelInstanceGroup.KIND_CPU, 1, [])
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {"engine": "torch", "threads": "8"}
    assert (config.input, config.output, config.response_cache) == (
        original.input,
        original.output,
        original.response_cache,
    ), "callers see no difference, and its answers stay cached"
    assert torch_graphs(on_cpu) == ["text_encoder"]
    assert "--graph text_encoder --text-encoder-precision bf16" in programs_command(on_cpu, copied)
    assert placed_configs(BOTH, copied)["text_encoder"].backend == original.backend == "tensorrt"


def test_the_command_that_makes_programs_is_one_that_there_is(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    from export import to_torch_program

    on_cpu = placed(Layout.BOTH, "141", engine=VaeEngine.TORCH, text_encoder_device="cpu", vae="bf16")
    arguments = programs_command(on_cpu, copied).split()[3:]
    arguments[arguments.index("FOLDER")] = "/nowhere"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["to_program", *arguments])
        assert to_torch_program.main() == 1
    assert "/nowhere" in capsys.readouterr().err


def test_a_server_that_loads_everything_needs_no_model_control(copied: Path) -> None:
    assert not [option for option in server_options(BOTH, copied, "x") if "model-control" in option or "load" in option]


def test_the_pool_holds_the_caches_where_triton_runs_the_vae(copied: Path) -> None:
    """Four sets of caches beside the small tensors; 0.5 GiB where they stay in one process."""
    pools = {
        name: next(o for o in server_options(p, copied, "x") if o.startswith("--cuda-memory-pool-byte-size=0:"))
        for name, p in (("plans", BOTH), ("in process", SWAPPED))
    }
    assert pools["in process"].endswith(f":{2**29}")
    pool = int(pools["plans"].rpartition(":")[2])
    assert pool == BOTH.pool_bytes(0) >= 2**29 + 4 * BOTH.memory.largest_cache_set
    pinned = next(o for o in server_options(BOTH, copied, "x") if o.startswith("--pinned"))
    assert int(pinned.rpartition("=")[2]) >= 2 * 81 * 720 * 1280 * 3


def test_the_sizes_are_those_that_requests_may_ask_for(copied: Path) -> None:
    several = placed(Layout.BOTH, "141", engine=VaeEngine.TRITON_PLANS, sizes=("480x832", "832x480"))
    configs = placed_configs(several, copied)
    assert configs["prepare"].parameters["served_clips"].string_value == "480x832x81,832x480x81"
    expert = configs["low_noise_expert"]
    assert list(expert.instance_group[0].profile) == ["0", "1"]
    assert expert.parameters["execution_context_allocation_strategy"].string_value == "ON_PROFILE_CHANGE"
    assert configs["vae_decoder_next"].version_policy.WhichOneof("policy_choice") == "all"
    assert configs["vae_decoder"].parameters["version_sizes"].string_value == "480x832x81,832x480x81"
    assert not placed_configs(BOTH, copied)["low_noise_expert"].instance_group[0].profile


def test_a_config_of_an_earlier_placement_does_not_stay(copied: Path) -> None:
    write_configs(BOTH, copied, "gpus")
    assert (copied / "vae_decoder_next/configs/gpus.pbtxt").exists()
    write_configs(TWO, copied, "gpus")
    assert not (copied / "vae_decoder_next/configs/gpus.pbtxt").exists()
    assert list(copied.rglob("*.partial")) == []


@pytest.mark.parametrize("name", ["", "cpu", "../x", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_or_not_free_is_refused(name: str, copied: Path) -> None:
    with pytest.raises(SettingsError, match="--out"):
        write_configs(BOTH, copied, name)
    assert not list(copied.glob("*/configs/*"))


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no model repository.*Set --repository"):
        placed_configs(BOTH, tmp_path)


def test_the_serving_code_reads_what_was_written(copied: Path) -> None:
    """The parameters' names and values are those that the models accept."""
    from wan_t2v.serving.loop.expert_swap import swaps_experts
    from wan_t2v.serving.models.vae_decoder import LOCATIONS
    from wan_t2v.serving.python_backend.parameters import ModelParameters

    swapped = placed(Layout.ONE_AT_A_TIME, "80", engine=VaeEngine.IN_PROCESS, sizes=("480x832",))

    def parameters(model: str) -> ModelParameters:
        config = placed_configs(swapped, copied)[model]
        values = {key: value.string_value for key, value in config.parameters.items()}
        return ModelParameters(model, copied / model / "1", values)

    assert swaps_experts(parameters("denoiser"))
    assert parameters("vae_decoder").text("engine_location") in LOCATIONS
    assert [str(clip) for clip in parameters("prepare").video_shapes("served_clips")] == ["480x832x81"]


def test_the_streaming_endpoint_swaps_and_decodes_like_the_unary_one(with_stream: Path) -> None:
    endpoints = (UNARY, STREAM)
    swapped = placed(Layout.ONE_AT_A_TIME, "141", engine=VaeEngine.IN_PROCESS, endpoints=endpoints)
    config = placed_configs(swapped, with_stream)[STREAM]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {
        "expert_residency": "one_at_a_time",
        "engine_location": "in_process",
        "engine": "tensorrt",
        "max_in_flight": "1",
        "guidance_passes": "in_turn",
    }
    assert list(config.instance_group[0].gpus) == [0]
    denoiser = placed_configs(swapped, with_stream)["denoiser"]
    assert denoiser.parameters["max_in_flight"].string_value == "1", "one limit holds for both endpoints"


@pytest.mark.parametrize(("gpus", "passes"), [(("141",), "in_turn"), (("141", "141"), "together")])
def test_guidance_passes_run_together_where_two_gpus_have_the_expert(
    gpus: tuple[str, ...], passes: str, with_stream: Path
) -> None:
    both = placed(Layout.BOTH, *gpus, engine=VaeEngine.IN_PROCESS, endpoints=(UNARY, STREAM))
    for name, config in placed_configs(both, with_stream).items():
        if name in ("denoiser", STREAM):
            assert config.parameters["guidance_passes"].string_value == passes


def test_a_endpoint_that_is_not_served_is_not_loaded(with_stream: Path) -> None:
    def loaded(*endpoints: str) -> set[str]:
        options = server_options(
            placed(Layout.BOTH, "141", engine=VaeEngine.TRITON_PLANS, endpoints=endpoints), with_stream, "x"
        )
        return {option.partition("=")[2] for option in options if option.startswith("--load-model")}

    everything = {path.parent.name for path in with_stream.glob("*/config.pbtxt")}
    assert loaded(UNARY) == everything - {STREAM}
    assert loaded(STREAM) == everything - {UNARY, "denoiser", "vae_decoder", "mp4_encoder"}
    assert loaded(UNARY, STREAM) == set(), "everything is loaded without being named"
