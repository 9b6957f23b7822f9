"""Ranges of request fields have one home: the gateway, its page and the client hold none of their own."""

import ast
import re
from pathlib import Path

import pytest

from wan_t2v.contract import STREAM_REQUEST
from wan_t2v.facts import SOLVERS
from wan_t2v.field_checks.ranges import RANGES
from wan_t2v.field_checks.texts import MAX_PROMPT_BYTES
from wan_t2v.request import OUTPUT_TYPES, VIDEO_ENCODINGS
from wan_t2v.step_profiles.profile import LEAST_STEPS

READERS = (
    "gateway/wan_t2v_gateway/api/fields.py",
    "gateway/wan_t2v_gateway/api/limits.py",
    "gateway/wan_t2v_gateway/api/openapi.py",
    "gateway/wan_t2v_gateway/server_limits.py",
    "client/wan_t2v_client/limits.py",
    "client/wan_t2v_client/cli/limits_table.py",
)
FIELDS = frozenset(field.name for field in STREAM_REQUEST)
GRID_PX, TIME_STRIDE = 16, 4  # of every Wan2.2 checkpoint
NUMBERS = {*(one.maximum for one in RANGES.values()), MAX_PROMPT_BYTES, LEAST_STEPS, GRID_PX, TIME_STRIDE} - {None, 1.0}
WORDS = {*SOLVERS, *OUTPUT_TYPES, *VIDEO_ENCODINGS} - FIELDS


@pytest.mark.parametrize("reader", READERS)
def test_who_reads_the_limits_has_none(reader: str, root: Path) -> None:
    tree = ast.parse((root / reader).read_text(encoding="utf-8"))
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not constants & (NUMBERS | WORDS)


def test_the_page_has_no_range_and_asks_for_fields_that_there_are(root: Path) -> None:
    folder = root / "gateway/wan_t2v_gateway/page"
    form = (folder / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<(?:input|select|textarea) name="(\w+)"', form)) <= FIELDS | {"size", "seconds"}
    assert not re.findall(r"<(?:input|select)[^>]* (?:min|max|step)=", form)
    assert re.findall(r'<select name="(\w+)"', form) == ["step_profile", "solver"]
    assert not re.findall(r'<option value="[^"]+', form)
    script = (folder / "form.js").read_text(encoding="utf-8")
    assert not {int(number) for number in re.findall(r"\b\d{2,}\b", script)} & NUMBERS
