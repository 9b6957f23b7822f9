"""Who may import whom, and that importing does nothing heavy where it must not."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FORBIDDEN = {
    "wan_t2v": {
        "export",
        "embedded",
        "client",
        "wan_t2v_client",
        "tritonclient",
        "tensorrt",
        "triton_python_backend_utils",
    },
    "export": {"embedded", "wan_t2v_client", "tritonclient", "wan_t2v.serving"},
    "embedded": {"export", "wan_t2v.serving", "torch"},
    "client/wan_t2v_client": {"wan_t2v", "export", "embedded", "torch"},
    "gateway/wan_t2v_gateway": {"wan_t2v", "export", "embedded", "benchmarks", "training", "torch", "tritonclient"},
}
ALLOWED = {"export/placement/configs.py": {"tritonclient.grpc.model_config_pb2"}}  # the format of configs, no client
# Folders of a package in the order of their arrows: each imports from those before it, and none from those after it.
ARROWS = {
    "wan_t2v/serving": ("python_backend", "resume", "admission", "loop", "models"),
    "export": ("graphs", "checkpoint", "lora", "quantisation", "parity", "to_onnx", "placement", "to_plan", "commands"),
    "client/wan_t2v_client": ("transport", "cli"),
    "embedded": ("process", "supervision"),
    "benchmarks": ("harness", "baselines", "latency", "load", "quality", "gpu"),
    "training": ("world", "learn", "judge", "distill"),
}
STEPS_KNOW_NOTHING_OF = {"wan_t2v.serving", "onnxruntime", "openvino", "tensorrt", "diffusers"}
STANDARD_LIBRARY_ONLY = ("facts", "shapes", "contract", "request")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def dotted(package: str) -> str:
    return package.removeprefix("client/").replace("/", ".")


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder: str, root: Path) -> None:
    for path in sorted((root / folder).rglob("*.py")):
        allowed = ALLOWED.get(str(path.relative_to(root)), set())
        for name in imported(path):
            assert name in allowed or not within(name, FORBIDDEN[folder]), f"{path.relative_to(root)} imports {name}"


@pytest.mark.parametrize(
    ("package", "folder"), [(package, folder) for package, folders in ARROWS.items() for folder in folders]
)
def test_no_folder_imports_one_that_comes_after_it(package: str, folder: str, root: Path) -> None:
    order = ARROWS[package]
    later = {f"{dotted(package)}.{name}" for name in order[order.index(folder) + 1 :]}
    for path in sorted((root / package / folder).rglob("*.py")):
        for name in imported(path):
            assert not within(name, later), f"{path.relative_to(root)} imports {name}"


def test_the_clients_library_does_not_know_its_command(root: Path) -> None:
    for path in sorted((root / "client/wan_t2v_client").glob("*.py")):
        for name in imported(path):
            assert not within(name, {"wan_t2v_client.cli"}), f"{path.name} imports {name}"


@pytest.mark.parametrize("package", ARROWS)
def test_every_folder_has_its_place_among_the_arrows(package: str, root: Path) -> None:
    folders = {path.parent.name for path in (root / package).glob("*/__init__.py")}
    assert folders == set(ARROWS[package])


def test_the_steps_know_neither_triton_nor_an_engine(root: Path) -> None:
    for path in sorted((root / "wan_t2v").glob("*.py")):
        for name in imported(path):
            assert not within(name, STEPS_KNOW_NOTHING_OF), f"{path.name} imports {name}"


def test_only_one_file_builds_inference_requests(root: Path) -> None:
    found = [path.name for path in (root / "wan_t2v").rglob("*.py") if "InferenceRequest(" in path.read_text()]
    assert found == ["model_call.py"]


def modules_after(statement: str, *, blocked: str = "") -> set[str]:
    """Modules loaded by a statement in a fresh interpreter, with some made impossible to import."""
    code = f"import sys\nfor name in {blocked.split()!r}: sys.modules[name] = None\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())  # the statement may have printed something too


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_shared_tables_need_the_standard_library_alone(module: str) -> None:
    assert not modules_after(f"import wan_t2v.{module}") & {"torch", "numpy", "diffusers", "av"}


def test_the_client_needs_no_torch_and_nothing_of_the_server() -> None:
    modules_after("import wan_t2v_client.cli.main", blocked="torch wan_t2v diffusers tensorrt onnxruntime transformers")


@pytest.mark.parametrize("module", ["prepare", "mp4_encoder", "graph"])
def test_models_that_need_no_torch_do_not_load_it(module: str) -> None:
    """Each Python model is a process of its own: torch would cost it two seconds and 200 MB."""
    assert "torch" not in modules_after(f"import wan_t2v.serving.models.{module}")


@pytest.mark.parametrize("module", ["denoiser", "text_to_video_stream", "vae_decoder"])
def test_no_model_loads_diffusers_or_what_it_brings(module: str) -> None:
    """Both endpoints need its UniPC alone: it would cost each process five seconds and 140 MB."""
    loaded = modules_after(f"import wan_t2v.serving.models.{module}")
    assert not loaded & {"diffusers", "scipy", "transformers", "torch._dynamo", "onnxruntime"}


COMMANDS_OF_EXPORT = (
    "mini",
    "onnx",
    "dry-run",
    "merge-lora",
    "calibrate",
    "parity",
    "plans",
    "compile-check",
    "placement",
    "torch-program",
)
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy"}


def modules_of_export(*arguments: str) -> set[str]:
    """Modules loaded when `python -m export` ends with these arguments."""
    statement = f"from export.__main__ import main\ntry: main({list(arguments)!r})\nexcept SystemExit: pass"
    return modules_after(statement)


@pytest.mark.parametrize("command", COMMANDS_OF_EXPORT)
def test_a_command_of_export_reads_its_arguments_before_it_imports_anything_heavy(command: str) -> None:
    assert not modules_of_export(command, "--help") & HEAVY
    assert not modules_of_export(command, "--no-such-option") & HEAVY


def test_every_command_of_export_is_among_them() -> None:
    from export.__main__ import parser

    (commands,) = (action for action in parser()._actions if action.metavar == "COMMAND")
    assert set(commands.choices) == {*COMMANDS_OF_EXPORT}


def test_placement_needs_no_torch_for_its_work_either() -> None:
    heavy = HEAVY - {"numpy"}  # the format of configs brings it
    assert not modules_of_export("placement", "--gpu", "80", "--size", "480x832") & heavy


@pytest.mark.parametrize("program", ["build_plans", "assemble"])
def test_the_images_programs_read_their_arguments_first_as_well(program: str) -> None:
    statement = f"from deploy.image.{program} import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not modules_after(statement) & (HEAVY - {"numpy"})  # the file of the preview's map brings it
