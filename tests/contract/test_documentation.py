"""README, Makefile, docs and code say the same."""

import re
import subprocess
from pathlib import Path

from wan_t2v_client.fields import FIELDS

from wan_t2v.contract import MODELS, STREAM_ANSWER, STREAM_REQUEST

TRITON_NAMES = {field.name: field.dtype.value for field in STREAM_REQUEST}


def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def request_page(root: Path) -> str:
    return (root / "docs/use/request.md").read_text(encoding="utf-8")


def make_targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def documents(root: Path) -> list[Path]:
    return [root / "README.md", root / "client/README.md", *sorted((root / "docs").rglob("*.md"))]


def test_make_lists_every_target_with_one_line(root: Path) -> None:
    shown = subprocess.run(["make", "-C", root], capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == make_targets(root)
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None and set(phony[1].split()) == make_targets(root)


def test_every_target_that_a_page_names_exists(root: Path) -> None:
    for path in documents(root):
        commands = set(re.findall(r"(?:`|^ {4}|^)make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE))
        assert commands <= make_targets(root), path


def test_every_request_field_has_a_row_with_its_type(root: Path) -> None:
    rows = dict(re.findall(r"^\| `([a-z_0-9]+)` \| ([A-Z0-9]+)", request_page(root), re.MULTILINE))
    assert {name: rows.get(name) for name in TRITON_NAMES} == TRITON_NAMES


def test_the_defaults_in_the_table_are_those_that_are_served(root: Path) -> None:
    from export.checkpoint.folder import Checkpoint
    from export.checkpoint.serving_defaults import A14B

    mini = Checkpoint.open(root / "training/wan-mini").defaults

    row = r"^\| `(\w+)` \| \w+ \| .* \| (.*) \| (.*) \|$"
    rows = {found[0]: found for found in re.findall(row, request_page(root), re.MULTILINE)}
    for name in A14B.keys() - {"negative_prompt", "step_profiles"}:
        assert rows[name][1:] == (str(A14B[name][0]), str(mini[name]["value"])), name
    assert mini["negative_prompt"]["value"] == "" and rows["negative_prompt"][2] == "empty"


def test_every_make_variable_of_a_request_is_on_its_page_and_reaches_the_command(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    block = makefile.split("# fields of a request")[1].split("python :=")[0]
    variables = set(re.findall(r"^([A-Z_0-9]+) \??=", block, re.MULTILINE))
    assert variables == {
        "PROMPT",
        "NEGATIVE_PROMPT",
        "SIZE",
        "FRAMES",
        "STEPS",
        "SEED",
        "GUIDANCE_SCALE",
        "GUIDANCE_SCALE_2",
        "FLOW_SHIFT",
        "FPS",
        "SOLVER",
        "STEP_PROFILE",
        "STEP_CACHE",
        "GUIDANCE_SKIP",
    }
    given = [f"{name}=7" for name in variables]
    shown = subprocess.run(
        ["make", "-C", root, "-n", "generate", *given], capture_output=True, text=True, check=True
    ).stdout
    for name in variables - {"PROMPT", "NEGATIVE_PROMPT"}:
        assert f"`{name}`" in request_page(root)
        assert f"--{name.lower().replace('_', '-')} 7" in shown, name
    assert '-- "$PROMPT"' in shown and '--negative-prompt "$NEGATIVE_PROMPT"' in shown


def test_no_placeholder_is_left(root: Path) -> None:
    for path in documents(root):
        assert not re.search(r"\b[A-Z]+_(TABLE|PAGE)\b", path.read_text(encoding="utf-8")), path


def test_every_model_is_in_the_readme_and_every_answer_on_the_requests_page(root: Path) -> None:
    for name in MODELS:
        assert f"`{name}`" in readme(root), name
    for tensor in STREAM_ANSWER:
        assert f"`{tensor.name}`" in request_page(root), tensor.name


def test_the_client_knows_the_same_fields_and_types() -> None:
    assert {name: field.datatype for name, field in FIELDS.items()} == TRITON_NAMES


def test_paths_named_in_documents_exist(root: Path) -> None:
    for path in documents(root):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_is_short_and_names_every_folder_and_file_at_the_top(root: Path) -> None:
    text = readme(root)
    assert text.count("\n") <= 180
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    for file in tracked:
        top = Path(file).parts[0]
        name = f"{top}/" if top != file else top
        assert top.startswith(".") or re.search(rf"(?:^|[\s,:]){re.escape(name)}", text), f"{name} is not in the README"


def test_every_page_is_in_the_index_and_the_index_in_the_readme(root: Path) -> None:
    index = (root / "docs/README.md").read_text(encoding="utf-8")
    for path in (root / "docs").rglob("*.md"):
        name = path.relative_to(root / "docs")
        assert str(name) == "README.md" or f"({name})" in index, name
    assert "(docs/README.md)" in readme(root)


def test_what_the_client_tries_again_the_server_calls_unavailable() -> None:
    """Two lists of Triton's phrases, for the two places in which they are met."""
    from wan_t2v_client.errors import _PASSING

    from wan_t2v.serving.python_backend.model_call import _RETRYABLE

    assert set(_PASSING) <= set(_RETRYABLE)


def test_every_metric_is_in_the_table_with_its_type(root: Path) -> None:
    from wan_t2v.serving.python_backend.metrics import METRICS

    rows = re.findall(r"^\| `(wan_t2v_\w+)` \| (\w+) \|", (root / "docs/use/streaming.md").read_text(), re.MULTILINE)
    assert rows == [(spec.name, spec.kind.lower()) for spec in METRICS]


def tables(page: str) -> list[list[str]]:
    """The lines of every table: those that begin with a bar and follow each other, outside blocks of code."""
    blocks = re.split(r"\n\s*\n", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    rows = [[line for line in block.splitlines() if line.startswith("|")] for block in blocks]
    return [lines for lines in rows if lines]


def test_every_table_has_its_header(root: Path) -> None:
    """A blank line cuts a table in two, and the rows after it are shown as text."""
    for path in documents(root):
        for lines in tables(path.read_text(encoding="utf-8")):
            assert len(lines) > 2 and re.fullmatch(r"\|( ?:?-+:? ?\|)+", lines[1]), f"{path.name}: {lines[0]}"


def test_a_table_that_is_cut_in_two_is_noticed() -> None:
    assert tables("a\n\n| b |\n|---|\n| c |\n\n| d |\n\n```\n| e |\n```\n") == [["| b |", "|---|", "| c |"], ["| d |"]]
