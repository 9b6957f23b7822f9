"""The command: a table for people, JSON for programs, clear errors, exit codes."""

import argparse
import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from export.commands.placement import add_placement
from wan_t2v.contract import STREAM
from wan_t2v.operate.model_control import restriction_options

PAGES = ("operating", "production")


def run(*arguments: str, repository: Path) -> None:
    parser = argparse.ArgumentParser()
    add_placement(parser.add_subparsers(), repository)
    options = parser.parse_args(["placement", *arguments])
    options.command(options)


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """The configs of the model repository, with the unary endpoint alone."""
    for path in repository.glob("*/config.pbtxt"):
        if path.parent.name == STREAM:
            continue
        target = tmp_path / path.relative_to(repository)
        target.parent.mkdir()
        shutil.copyfile(path, target)
    return tmp_path


def test_it_is_a_command_of_export() -> None:
    from export.__main__ import parser

    options = parser().parse_args(["placement", "--gpu", "80", "--gpu", "80", "--size", "720x1280"])
    assert options.gpu == ["80", "80"]


def test_the_table_says_what_each_gpu_holds_and_what_is_an_estimate(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--gpu", "80", "--size", "720x1280", repository=copied)
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line[22:26].strip().isdecimal()}
    assert rows.keys() == {"text_encoder", "one", "denoiser", "vae_decoder", "tritonserver", "CUDA", "all"}
    assert rows["all"].endswith("of 75.0: fits")
    assert "4 GiB of each GPU are not planned for" in printed
    assert "text encoder on GPU 0: it fits there" in printed
    assert "10.58" in rows["text_encoder"] and "~" in rows["text_encoder"]
    assert "~ is an estimate" in printed
    assert "not both experts resident: GPU 0 needs" in printed
    assert "VAE in the process that decodes: a set of caches has 8.12 GiB" in printed
    ways = [line for line in printed.splitlines() if line.startswith(("  1. ", "  2. ", "  3. "))]
    assert ["fp8" in ways[0], "two GPUs" in ways[1], "one expert at a time" in ways[2]] == [True] * 3
    assert "--model-config-name=NAME" in printed
    assert not list(copied.glob("*/configs/*"))


def test_it_writes_the_configs_only_when_asked(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--gpu", "141", "--size", "480x832", "--out", "one-141", repository=copied)
    printed = capsys.readouterr().out
    assert f"wrote {copied / 'denoiser/configs/one-141.pbtxt'}" in printed
    assert "--model-config-name=one-141" in printed
    assert "In this order" not in printed


def test_the_pages_say_how_many_generations_run(copied: Path, root: Path) -> None:
    run("--gpu", "141", "--size", "480x832", "--out", "one-141", repository=copied)
    most = r'"max_in_flight",?\s+value \{\s+string_value: "(\d+)"'
    configs = [copied / "denoiser" / name for name in ("configs/one-141.pbtxt", "config.pbtxt")]
    ((placed,), (own,)) = (re.findall(most, config.read_text()) for config in configs)
    operating, production = (" ".join((root / f"docs/run/{page}.md").read_text().split()) for page in PAGES)
    assert f"placement writes `max_in_flight` {placed}, since" in operating
    assert f"configs without a placement have `max_in_flight` {own} and" in operating
    assert f"by placement's `max_in_flight` {placed} (" in production


def test_it_prints_what_keeps_model_control_to_the_operator(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that swaps experts has it on, and loading a model runs code."""
    run("--gpu", "80", "--size", "720x1280", "--door", "unary", repository=copied)
    printed = capsys.readouterr().out.splitlines()
    assert "  --model-control-mode=explicit" in printed
    assert {f"  {option}" for option in restriction_options("$WAN_T2V_ADMIN_KEY")} <= {*printed}


def test_json_holds_the_same(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--gpu", "80", "--gpu", "80", "--size", "720x1280", "--json", repository=copied)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    placement = answer["placement"]
    assert answer["fits"] and placement["layout"] == "expert_each" and placement["vae_engine"] == "in_process"
    for index, gpu in enumerate(placement["gpus"]):
        held = [h for h in placement["holdings"] if h["gpu"] == index]
        columns = ("weights", "context", "bindings", "caches", "other")
        assert gpu["needed"] == sum(h[column] for h in held for column in columns) <= gpu["usable"]
    assert [tried["layout"] for tried in answer["tried"]] == ["both", "expert_each", "one_at_a_time"]
    assert any(option.startswith("--cuda-memory-pool-byte-size=1:") for option in answer["options"])


def test_where_nothing_fits_it_says_by_how_much_and_what_would(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("--gpu", "48", "--size", "720x1280", "--out", "x", repository=copied)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert "nothing fits: even with one expert at a time, swapped once a clip, GPU 0 needs 60.8 of 40.4" in printed.err
    assert "What would fit: two GPUs of 48 GB, experts in fp8" in printed.err
    assert "does not fit" in printed.out
    assert not list(copied.glob("*/configs/*"))


def test_a_gpu_too_small_for_anything(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--gpu", "8", "--size", "720x1280", repository=copied)
    assert "Take larger GPUs, smaller sizes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "80", "--size", "720x1281"], "width 1281 is not a multiple of 16"),
        (["--gpu", "80", "--size", "720x1280x80"], "80 frames are not 4k+1"),
        (["--gpu", "80", "--size", "720x1280", "--precision", "int4"], "precision of the experts is 'int4'"),
        (["--gpu", "80", "--size", "720x1280", "--door", "stream"], "has no model text_to_video_stream"),
        (["--gpu", "large", "--size", "720x1280"], "GPU 'large', accepted"),
        (["--gpu", "80", "--gpu", "80", "--gpu", "80", "--size", "720x1280"], "3 GPUs, accepted: one or two"),
        (["--gpu", "141", "--size", "720x1280", "--out", "cpu"], "--out 'cpu', accepted"),
        (["--gpu", "80", "--size", "720x1280", "--checkpoint", "/nowhere"], "/nowhere is missing: no such folder"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    arguments: list[str], message: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(*arguments, repository=copied)
    assert end.value.code == 1
    assert message in capsys.readouterr().err


def test_a_text_encoder_on_the_cpu_is_told_with_its_reason_and_what_to_make_first(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--gpu", "80", "--size", "480x832", repository=copied)
    printed = capsys.readouterr().out
    assert "layout: both experts resident: fits" in printed
    assert "text encoder on the CPU: with it on a GPU, GPU 0 needs 85.2 of 75.0 GiB" in printed
    assert "11.61 GiB of host memory" in printed
    assert "--graph text_encoder --text-encoder-precision bf16" in printed
    run("--gpu", "80", "--size", "480x832", "--text-encoder", "gpu", repository=copied)
    assert "text encoder on the CPU, experts in bf16" in capsys.readouterr().out, "as a way out"


def test_torch_for_the_vae_can_be_asked_for(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--gpu", "141", "--size", "720x1280", "--vae-engine", "torch", "--json", repository=copied)
    answer = json.loads(capsys.readouterr().out)
    assert answer["placement"]["vae_engine"] == "torch"
    assert answer["programs"] == ["vae_decoder_first", "vae_decoder_next"]
    run("--gpu", "141", "--size", "720x1280", "--vae-engine", "torch", repository=copied)
    assert "VAE in torch in the process that decodes: " in capsys.readouterr().out


def test_real_plans_without_their_figures_or_programs_are_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copied / "high_noise_expert/1"
    home.mkdir()
    manifest = {"sizes": ["480x832x81"], "precision": "bf16", "profiles": [{}]}
    (home / "plan.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit):
        run("--gpu", "80", "--size", "480x832", "--out", "x", repository=copied)
    assert "plan.json does not tell how much memory the plan needs" in capsys.readouterr().err
    (home / "plan.json").write_text(json.dumps({**manifest, "device_memory_bytes": [2**31]}))
    with pytest.raises(SystemExit):
        run("--gpu", "80", "--size", "480x832", "--out", "x", repository=copied)
    assert "no model.pt2 of text_encoder" in capsys.readouterr().err
    assert not list(copied.glob("*/configs/*"))
    run("--gpu", "141", "--size", "480x832", "--json", repository=copied)
    held = {h["component"]: h for h in json.loads(capsys.readouterr().out)["placement"]["holdings"]}
    assert (held["high_noise_expert"]["context"], held["high_noise_expert"]["estimated"]) == (2**31, 0)
    assert held["low_noise_expert"]["estimated"] > 0


def test_another_checkpoint_is_read_from_its_configs(
    checkpoint: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--gpu", "16", "--size", "128x128x17", "--checkpoint", str(checkpoint), "--json", repository=copied)
    placement = json.loads(capsys.readouterr().out)["placement"]
    assert (placement["layout"], placement["vae_engine"], placement["verdict"]) == ("both", "triton_plans", "fits")


def test_a_checkpoint_of_another_model_is_refused_as_the_export_does(
    checkpoint: Path, copied: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wan2.1 has one expert."""
    folder = tmp_path_factory.mktemp("models") / "wan"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = folder / "transformer_2/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 7}))
    arguments = ["--gpu", "16", "--size", "128x128x17", "--checkpoint", str(folder)]
    with pytest.raises(SystemExit):
        run(*arguments, repository=copied)
    assert "transformer and transformer_2 differ in their configs" in capsys.readouterr().err
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "transformer_2": [None, None]}))
    with pytest.raises(SystemExit):
        run(*arguments, repository=copied)
    assert "transformer_2 is None, expected WanTransformer3DModel" in capsys.readouterr().err


def test_a_size_without_plans_is_told(checkpoint: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size, refused in (("720x1280", False), ("512x512", True)):
        run("--gpu", "141", "--size", size, repository=copied)
        told = (
            f"no plans for {size}x81: `make plans` refuses such sizes, accepted: 480x832, " in capsys.readouterr().out
        )
        assert told == refused
    run("--gpu", "16", "--size", "512x512", "--checkpoint", str(checkpoint), repository=copied)
    assert "no plans for" not in capsys.readouterr().out, "the list is A14B's"


def test_the_table_in_the_documentation_is_what_the_command_says(
    root: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "docs/run/placement.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (2 x )?(\d+) GB \| (\d+x\d+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 10
    names = {"both": "both", "expert_each": "one each", "one_at_a_time": "one at a time"}
    for two, gpu, size, *told in rows:
        for precision, cell in zip(("bf16", "fp8"), told, strict=True):
            gpus = ["--gpu", gpu] * (2 if two else 1)
            with contextlib.suppress(SystemExit):
                run(*gpus, "--size", size, "--precision", precision, "--json", repository=copied)
            placement = json.loads(capsys.readouterr().out)["placement"]
            if placement is None:
                assert cell == "no"
                continue
            assert cell.startswith(names[placement["layout"]])
            needed = " + ".join(f"{entry['needed'] / 2**30:.1f}" for entry in placement["gpus"])
            assert f", {needed} GiB" in cell
            assert ("(tight)" in cell) == (placement["verdict"] == "tight")
            assert ("text encoder on the CPU" in cell) == (placement["text_encoder"] == "cpu")


def test_experts_in_int8_take_what_those_in_fp8_do(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For GPUs that have no FP8, such as an A100."""
    needed = {}
    for precision in ("fp8", "int8-bf16"):
        run("--gpu", "80", "--size", "720x1280", "--precision", precision, "--json", repository=copied)
        needed[precision] = json.loads(capsys.readouterr().out)["placement"]["gpus"]
    assert needed["fp8"] == needed["int8-bf16"]
