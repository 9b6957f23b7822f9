"""Every message that docs/run/troubleshooting.md quotes is one that the code can still produce; links lead somewhere."""

import ast
import functools
import re

import pytest

from tests.deploy.rendering import ROOT

PACKAGES = ("wan_t2v", "embedded", "export", "client/wan_t2v_client", "deploy")
PAGE = ROOT / "docs/run/troubleshooting.md"
TRITONS = "Triton's own words"
QUIET = "No message at all"
KUBERNETES = "Kubernetes' own words"


def sections() -> dict[str, list[str]]:
    """Heading to the quoted messages of its table."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        found[heading] = re.findall(r"^\| `([^`]+)` \|", body, re.MULTILINE)
    return found


def quoted() -> list[str]:
    return [
        message
        for heading, found in sections().items()
        if heading not in (TRITONS, QUIET, KUBERNETES)
        for message in found
    ]


@functools.cache
def messages() -> tuple[str, ...]:
    """Every text in the code, with a placeholder for each value that is filled in."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                    found.append(node.value)
    found += [path.read_text() for path in (*ROOT.glob("*.sh"), ROOT / "Makefile")]
    found += [path.read_text() for path in (ROOT / "deploy/helm").glob("*/templates/*")]
    return tuple(found)


def is_told(message: str) -> bool:
    """Whether a text of the code is this message; what the page leaves out stands on one line there."""
    pattern = ".*".join(re.escape(part.strip()) for part in message.split("..."))
    return any(re.search(pattern, text) for text in messages())


def test_there_is_something_to_check() -> None:
    assert len(quoted()) > 50 and sections()[TRITONS] and {QUIET, KUBERNETES} <= sections().keys()


def test_there_is_one_table_of_troubles() -> None:
    """Other pages link to it."""
    for page in (ROOT / "docs").rglob("*.md"):
        assert page == PAGE or not re.search(
            r"^\| *(symptom|message|what is seen) *\|", page.read_text(), re.MULTILINE
        ), page


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_still_in_the_code(message: str) -> None:
    assert is_told(message)


@pytest.mark.parametrize("message", ["the deadline in ... days cannot be met", "run directory ... is on fire"])
def test_a_message_that_is_not_in_the_code_is_noticed(message: str) -> None:
    assert not is_told(message)


@pytest.mark.parametrize("message", sections()[TRITONS])
def test_tritons_words_are_those_that_the_code_knows(message: str) -> None:
    """Triton's binary is not ours to search; these are what the code reacts to or was changed for."""
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    known = "\n".join(path.read_text() for path in (*sources, *ROOT.glob("model_repository/*/configs/*.pbtxt")))
    assert all(part.strip() in known for part in message.split("..."))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = sorted(str(path.relative_to(ROOT)) for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_headings_that_exist(page: str) -> None:
    path = ROOT / page
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", path.read_text()):
        assert anchor in anchors((path.parent / target if target else path).read_text()), (target, anchor)
