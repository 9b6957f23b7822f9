"""What the Makefile makes of variables: on the command line, in the environment, switched off, with two targets at once."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE_BY_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")  # of the make that runs the tests


def commands(*arguments: str, **environment: str) -> str:
    """Return what make would run, without running it. No prerequisite of the environment is looked at."""
    kept = {name: value for name, value in os.environ.items() if name not in MADE_BY_MAKE}
    made = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout


def lines_with(text: str, printed: str) -> list[str]:
    return [line for line in printed.replace("\\\n", " ").splitlines() if text in line]


@pytest.mark.parametrize("name", ["HOST", "HTTP_HOST", "METRICS_HOST", "PORT", "URL", "LOG"])
def test_an_address_is_not_taken_from_the_environment(name: str) -> None:
    for target in ("serve", "studio", "gateway", "generate"):
        assert "somewhere.example" not in commands(target, **{name: "somewhere.example"})


@pytest.mark.parametrize(("named", "expected"), [([], "a red ball rolls left"), (["PROMPT=a $5 ball"], "a $5 ball")])
def test_a_prompt_is_not_taken_from_the_environment(named: list[str], expected: str) -> None:
    """The shell zsh has a variable of that name, its own prompt."""
    shown = subprocess.run(
        ["make", "--silent", "--eval", 'shown: ; @printf "%s" "$$PROMPT"', "shown", *named],
        cwd=ROOT,
        env={**os.environ, "PROMPT": "%n@%m %1~ %# "},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == expected


def test_an_address_on_the_command_line_is_taken() -> None:
    assert "--host somewhere.example" in commands("serve", "HOST=somewhere.example")
    assert "--url somewhere.example:8001" in commands("generate", "HOST=somewhere.example")


def test_a_placed_server_is_what_placement_prints() -> None:
    named = ["CONFIG_NAME=torch", "MODELS=prepare denoiser", "CUDA_POOL_BYTES=536870912", "START_LIMIT_S=2400"]
    (line,) = lines_with("embedded.serve", commands("serve", *named))
    wanted = "--config-name torch --models prepare denoiser --cuda-pool-bytes 536870912 --start-limit-s 2400"
    assert wanted.split() == [word.strip('"') for word in line.split()][-len(wanted.split()) :]
    assert "--config-name" not in commands("serve")


def test_an_address_of_ipv6_gets_brackets_in_the_url() -> None:
    assert "--host ::1 " in commands("serve", "HOST=::1")
    assert "--url [::1]:8001" in commands("generate", "HOST=::1")
    assert "--url [::1]:8001" in commands("generate", "HOST=[::1]")


@pytest.mark.parametrize(
    ("target", "name", "option"),
    [
        ("plans", "VAE_TF32", "--vae-tf32"),
        ("export", "BF16_SHARDS", "--bf16-shards"),
        ("compile-check", "SMALLEST_COVER", "--smallest-cover"),
        ("bench-all", "QUICK", "--quick"),
        ("bench-gateway", "QUICK", "--quick"),
    ],
)
def test_a_switch_is_on_with_1_and_off_with_0(target: str, name: str, option: str) -> None:
    assert option in commands(target, f"{name}=1")
    assert not [value for value in ("0", "no", "off", "") if option in commands(target, f"{name}={value}")]


def test_plans_are_built_from_the_precisions_that_were_exported() -> None:
    named = ("PRECISION=fp8", "TEXT_ENCODER_PRECISION=fp32", "VAE_PRECISION=bf16")
    for line in lines_with("-m export", commands("plans", *named)):
        assert "--precision fp8 --text-encoder-precision fp32 --vae-precision bf16" in line


def test_graphs_are_exported_with_the_ranges_that_are_named() -> None:
    (line,) = lines_with("-m export onnx", commands("plans", "PRECISION=fp8", "FP8_RANGES=my ranges.json"))
    assert '--fp8-ranges "my ranges.json"' in line
    assert "--fp8-ranges" not in commands("plans", "PRECISION=fp8"), "the export looks for them under build/"
    (line,) = lines_with("-m export calibrate", commands("calibrate", "FP8_RANGES=my ranges.json"))
    assert '--fp8-ranges "my ranges.json"' in line, "where the export will look for them"


def test_what_plans_cannot_be_built_for_is_refused_before_the_export() -> None:
    printed = commands("plans", "SIZES=480x832x81, 720x1280", "LORA_HIGH=file", "CHECKPOINT=model")
    steps = [line.split("-m export ")[1] for line in lines_with("-m export", printed)]
    assert [step.split()[0] for step in steps] == ["plans", "merge-lora", "onnx", "plans"]
    assert steps[0].startswith('plans --check-only --checkpoint "model" ') and "--check-only" not in steps[3]
    assert steps[3].startswith('plans --checkpoint "model-lora" ')
    assert all('--sizes "480x832x81, 720x1280"' in steps[index] for index in (0, 3)), "as one argument"
    assert "--check-only" not in commands("export")
    assert "--check-only" in commands("export", "plans"), "whichever target makes the export"


def test_a_size_that_only_the_merged_folder_knows_is_checked_after_the_merge() -> None:
    """It keeps serving defaults of its own; one of an earlier merge may be out of date."""
    printed = commands("plans", "LORA_HIGH=file", "CHECKPOINT=model").replace("\\\n", " ")
    steps = [line.split("-m export ")[1] for line in lines_with("-m export", printed)]
    assert [step.split()[0] for step in steps] == ["merge-lora", "plans", "onnx", "plans"]
    assert steps[1].startswith('plans --check-only --checkpoint "model-lora" ')
    without = commands("plans", "CHECKPOINT=model").replace("\\\n", " ")
    assert 'plans --check-only --checkpoint "model" ' in without


def test_the_environment_sets_none_of_the_makefiles_own_variables() -> None:
    """Lower-case ones are its own. One that only some targets set would be the environment's for the others."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    own = set(re.findall(r"\$[({](?:call )?([a-z_]+)[),}]", makefile))
    own -= {"no_proxy", "name"}  # which is meant to be the environment's, and the variable of a loop
    assert {"check_plans", "must_install"} <= own
    assert own == own & set(re.findall(r"^([a-z_]+) *:?=", makefile, re.MULTILINE)), "each has a line for every target"
    for target in ("export", "plans", "serve", "demo", "test", "quality", "gateway"):
        assert "somewhere.example" not in commands(target, **dict.fromkeys(own, "somewhere.example"))


@pytest.mark.parametrize("target", ["serve", "studio", "perf"])
def test_what_a_call_names_is_exported_before_it_is_served(target: str) -> None:
    for named in ("CHECKPOINT=elsewhere", "PRECISION=fp16", "VAE_PRECISION=bf16", "LORA_HIGH=file"):
        lines = commands(target, named)
        assert named.partition("=")[2] in lines and "export onnx" in lines and "--must-install" in lines


@pytest.mark.parametrize("target", ["export", "calibrate"])
def test_the_benchmarks_checkpoint_is_made_with_and_without_a_slash_behind_it(target: str) -> None:
    for checkpoint in ("checkpoints/wan-mini", "checkpoints/wan-mini/"):
        assert lines_with("-m export mini", commands(target, f"CHECKPOINT={checkpoint}")), checkpoint
    assert not lines_with("-m export mini", commands(target, "CHECKPOINT=elsewhere/"))


@pytest.mark.parametrize("named", ["BF16_SHARDS=0", "PRECISION=", "CHECKPOINT=", "LORA_HIGH="])
def test_what_a_call_leaves_empty_or_off_exports_nothing(named: str) -> None:
    name, value = named.split("=")
    for lines in (commands("serve", named), commands("serve", **{name: value})):
        assert "--must-install" not in lines


def test_no_two_targets_run_at_once() -> None:
    """Otherwise -j, or MAKEFLAGS in the environment, would install twice into one environment."""
    assert ".NOTPARALLEL:" in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
