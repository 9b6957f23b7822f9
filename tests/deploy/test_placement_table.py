"""The chart's figures are those of `python -m export placement`."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from deploy.placement_table import AS_FP8, DOORS, EXPERTS, GPUS, SIZES, TABLE, VAE, key, place
from tests.deploy.rendering import CHART, DEPLOYMENTS, ROOT, named, pod, server


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / TABLE).read_text())
    return found


def test_the_table_holds_every_deployment_that_the_chart_offers(table: dict[str, Any]) -> None:
    assert len(table["rows"]) == len(GPUS) * len(SIZES) * len(EXPERTS) * len(VAE) * len(DOORS)
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["placement"]["properties"]
    assert schema["experts"]["enum"] == [*EXPERTS, *AS_FP8] and schema["vae"]["enum"] == list(VAE)
    assert schema["doors"]["enum"] == list(DOORS)
    assert set(schema["gpus"]["items"]["enum"]) == {size for gpus in GPUS for size in gpus}
    assert set(schema["sizes"]["items"]["enum"]) == {size for sizes in SIZES for size in sizes}


@pytest.mark.parametrize("number", range(0, len(GPUS) * len(SIZES), 7))
def test_rows_are_what_placement_says_today(table: dict[str, Any], number: int) -> None:
    """A sample of every seventh pair of GPUs and sizes; `make placement-table` writes all anew."""
    gpus, sizes = GPUS[number // len(SIZES)], SIZES[number % len(SIZES)]
    for row_of, experts, vae, doors in (
        ("bf16", "bf16", "fp32", "both"),
        ("fp8", "fp8", "bf16", "stream"),
        ("fp8", "int8-bf16", "bf16", "stream"),
    ):
        row = dict(table["rows"][key(gpus, sizes, row_of, vae, doors)])
        if "options" in row:
            row["options"] = table["optionSets"][row["options"]]
        assert row == place(gpus, sizes, experts, vae, doors), (gpus, sizes, experts, vae, doors)


def test_experts_in_int8_have_the_row_of_those_in_fp8_and_ask_for_their_own_plans() -> None:
    ranges = 'checkpoint={"existingClaim":"a14b","path":"a14b","fp8Ranges":"ranges.json"}'
    in_fp8, in_int8 = (("values-gpu-80", f'placement.experts="{experts}"', ranges) for experts in ("fp8", "int8-bf16"))
    assert server(*in_int8)["args"] == server(*in_fp8)["args"]
    (job,) = pod(*in_int8, kind="Job")["containers"]
    assert job["args"][job["args"].index("--precision") + 1] == "int8-bf16"
    assert job["args"][job["args"].index("--fp8-ranges") + 1] == "/checkpoint/ranges.json"


@pytest.mark.parametrize("values", DEPLOYMENTS[1:])
def test_a_values_file_gives_the_server_the_options_that_the_command_prints(values: str) -> None:
    arguments = named(pod(values)["initContainers"], "repository")["args"]
    asked = arguments[arguments.index("--") + 1 :]
    command = [sys.executable, "-m", "export", "placement", *asked, "--json"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = ["--model-config-name=placed", *json.loads(printed)["options"][1:]]
    assert server(values)["args"][1 : 1 + len(options)] == options
    settings = yaml.safe_load((CHART / f"{values}.yaml").read_text())["placement"]
    needed = [gpu["needed"] for gpu in json.loads(printed)["placement"]["gpus"]]
    row = json.loads((ROOT / TABLE).read_text())["rows"][
        key(settings["gpus"], settings["sizes"], settings["experts"], settings["vae"], settings["doors"])
    ]
    assert row["gib"] == [round(size / 2**30, 1) for size in needed]


def test_a_text_encoder_on_the_cpu_counts_in_host_memory(table: dict[str, Any]) -> None:
    """Twice its 10.6 GiB while it is loaded; the Job writes the program that a pod needs."""
    on_cpu, swapped = (table["rows"][f"80 480x832x81 bf16 fp32 {doors}"] for doors in ("stream", "both"))
    assert (on_cpu["layout"], on_cpu["textEncoder"]) == ("both", "cpu")
    assert (swapped["layout"], swapped["textEncoder"]) == ("one_at_a_time", "gpu")
    one_on_gpu = table["rows"]["141 480x832x81 bf16 fp32 stream"]
    assert on_cpu["memoryGib"] >= one_on_gpu["memoryGib"] + 2 * 10


@pytest.mark.parametrize("values", DEPLOYMENTS[1:])
def test_the_job_writes_the_programs_of_what_runs_in_torch(values: str) -> None:
    arguments = named(pod(values)["initContainers"], "repository")["args"]
    on_cpu = arguments[arguments.index("--text-encoder") + 1] == "cpu"
    job = pod(values, kind="Job")
    assert on_cpu == bool(job.get("initContainers"))
    if on_cpu:
        (programs,) = job["initContainers"]
        assert programs["command"] == ["python3", "-m", "export.to_torch_program"]
        assert "--graph=text_encoder" in programs["args"] and "--text-encoder-precision=bf16" in programs["args"]
        into = programs["args"][programs["args"].index("--repository") + 1]
        plans = job["containers"][0]["args"]
        assert into == f"{plans[plans.index('--into') + 1]}/model_repository", "the set that the next step closes"


def test_shared_memory_grows_with_the_clip(table: dict[str, Any]) -> None:
    small, large = (table["rows"][f"141 {size} bf16 fp32 both"]["shmGib"] for size in ("480x832x81", "720x1280x81"))
    assert small < large <= 8
