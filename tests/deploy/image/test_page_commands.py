"""The commands of docs/run/production.md that assemble a repository and serve it, without Docker."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deploy.image import assemble
from tests.deploy.rendering import ROOT
from wan_t2v.operate.model_control import restriction_options

# Runs the command that follows the image, with the environment of its `-e`. Without `--entrypoint` NVIDIA's prints first.
DOCKER = """#!/bin/bash
while [ "$1" != wan-t2v:0.1.0 ]; do
    [ "$1" = -e ] && export "$2"  # of a name alone docker takes the value from the environment, as bash does
    [ "$1" = --entrypoint ] && entrypoint=$2
    shift
done
shift
[ -n "$entrypoint" ] && exec "$entrypoint" "$@"
printf '\\n== Triton Inference Server ==\\n\\n'
exec "$@"
"""
# Takes down the arguments of the image's programs; runs all else.
PYTHON = """#!{python}
import json, os, sys
if sys.argv[2].startswith("deploy.image."):
    with open({log!r}, "a") as log:
        log.write(json.dumps(sys.argv[2:]) + "\\n")
else:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
KEY = "0123abcd"
OPENSSL = f"#!/bin/bash\necho {KEY}\n"
JQ = """#!{python}
import json, sys
print(json.dumps(json.load(sys.stdin)[sys.argv[-1].lstrip(".")]))
"""


def written(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def ran(commands: str, folder: Path) -> list[list[str]]:
    """Run shell commands where the image's model repository is, and return the arguments of the image's programs."""
    tools, log = folder / "tools", folder / "log"
    tools.mkdir()
    written(tools / "docker", DOCKER)
    written(tools / "python3", PYTHON.format(python=sys.executable, log=str(log)))
    written(tools / "jq", JQ.format(python=sys.executable))
    written(tools / "openssl", OPENSSL)
    assemble.copy_models(ROOT / "model_repository", folder / "model_repository")
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = subprocess.run(["bash", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def commands_of_the_page() -> str:
    page = (ROOT / "docs/run/production.md").read_text()
    (block,) = re.findall(r"\n( +OPTIONS=.*?)\n\n", page, re.DOTALL)
    return textwrap.dedent(block)


def test_the_server_gets_the_options_that_the_repository_was_assembled_for(tmp_path: Path) -> None:
    init, server = ran(commands_of_the_page().replace("/tmp/", f"{tmp_path}/"), tmp_path)
    options = json.loads(assemble.parser().parse_args(init[1:]).expected_options)
    assert options[0] == "--model-config-name=placed" and server[-len(options) :] == options
    assert f"--model-repository={tmp_path}/repository" in server
    assert set(restriction_options(KEY)) <= set(server), "who reaches the port could load models, which runs code"


def test_what_the_page_serves_is_published_on_loopback_alone() -> None:
    published = re.findall(r" (?:-p|--publish)[ =](\S+)", commands_of_the_page())
    assert published == ["127.0.0.1:8001:8001"]


def test_without_a_key_the_page_serves_nothing(tmp_path: Path) -> None:
    without = commands_of_the_page().replace("openssl rand -hex 24", "true").replace("/tmp/", f"{tmp_path}/")
    with pytest.raises(AssertionError, match="WAN_T2V_ADMIN_KEY: parameter null or not set"):
        ran(without, tmp_path)


def test_the_image_has_the_folder_that_the_servers_processes_share() -> None:
    """Without the chart's volume nobody else makes it, and the server's user may not."""
    assert "install -d -o 1000 -g 1000 /run/wan-t2v" in (ROOT / "deploy/Dockerfile").read_text()


@pytest.mark.parametrize("text", ["", "--model-config-name=placed", '{"options": []}', "[1]"])
def test_options_that_are_no_list_are_refused_before_the_plans_are_read(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--repository", str(tmp_path / "repository"), "--plan-set", str(tmp_path / "none")]
    assert assemble.main([*arguments, f"--expected-options={text}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a JSON list of server options" in line and "--out NAME --json" in line
