"""What a server publishes of its limits is what it holds requests to."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from wan_t2v import request
from wan_t2v.contract import STREAM_REQUEST
from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.field_checks import ranges
from wan_t2v.field_checks.ranges import RANGES, NumberRange
from wan_t2v.field_checks.sizes import ServedSizes
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import resolve_settings
from wan_t2v.serving.published_limits import LimitsNotPublished, limits_document, publish_limits, read_limits
from wan_t2v.shapes import LatentGrid, VideoShape
from wan_t2v.step_profiles.profile import StepProfile

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)
FACTS = ModelFacts(GRID, (), (), 0.875, 1000, {}, text_length=512, text_dim=4096)
PROFILES = {"fast": StepProfile(step_cache=0.1), "whole": StepProfile()}
DEFAULTS = ServingDefaults(128, 128, 17, 40, 4.0, 3.0, 12.0, 16, "blurred", PROFILES)
ANY = ServedSizes(largest=VideoShape(80, 250, 256), token_passes=10**6)
LISTED = replace(ANY, listed=(VideoShape(81, 480, 832), VideoShape(41, 832, 480)))


def document(served: ServedSizes = ANY) -> dict[str, Any]:
    published = limits_document(defaults=DEFAULTS, facts=FACTS, served=served)
    return {**published, "requests": {"in_flight": 1, "queued": 16}}


@pytest.mark.parametrize("served", [ANY, LISTED])
def test_the_document_has_every_field_and_fits_its_schema(served: ServedSizes, root: Path) -> None:
    schema = json.loads((root / "docs/use/limits.schema.json").read_text(encoding="utf-8"))
    published = document(served)
    jsonschema.validate(published, schema)
    assert list(published["fields"]) == [field.name for field in STREAM_REQUEST]
    bounded = {name for name, entry in published["fields"].items() if len(entry.keys() - {"type", "default"})}
    assert bounded == published["fields"].keys() - {"latents"}


def test_sizes_end_where_the_grid_does() -> None:
    """A largest clip of 250 pixels and 80 frames has no row 250 and no frame 80."""
    fields = document()["fields"]
    height = {"type": "integer", "minimum": 16, "maximum": 240, "step": 16, "unit": "pixels", "default": 128}
    assert fields["height"] == height
    assert (fields["num_frames"]["minimum"], fields["num_frames"]["step"], fields["num_frames"]["maximum"]) == (
        1,
        4,
        77,
    )


def test_listed_sizes_are_published_as_whole_clips() -> None:
    published = document(LISTED)
    assert published["sizes"][1] == {"height": 832, "width": 480, "num_frames": 41}
    assert published["fields"]["num_frames"]["choices"] == [41, 81]


def test_a_changed_range_changes_the_document_and_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RANGES, "fps", NumberRange(2, 7))
    assert document()["fields"]["fps"] == {"type": "integer", "minimum": 2, "maximum": 7, "default": 16}
    check({"fps": 7})
    with pytest.raises(ranges.InvalidField, match="an integer from 2 to 7"):
        check({"fps": 8})


def test_a_changed_choice_changes_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(request.CHOICES, "solver", ("unipc", "heun"))
    assert document()["fields"]["solver"]["choices"] == ["unipc", "heun"]
    assert document()["fields"]["step_profile"]["choices"] == ["exact", "fast", "whole"]
    assert document()["step_profiles"] == {"least_steps": 16, "exact": ["exact", "whole"]}


@pytest.mark.parametrize("field", document()["fields"])
def test_what_the_document_says_of_numbers_is_what_the_check_does(field: str) -> None:
    entry = document()["fields"][field]
    if field == "preview_every" or entry["type"] not in ("integer", "number"):
        return
    step = entry.get("step", 1)
    for end, outside in (("minimum", -step), ("maximum", step)):
        if end in entry:
            check({field: entry[end]})
            with pytest.raises(ranges.InvalidField, match=f"^{field}"):
                check({field: entry[end] + outside})
    if "above" in entry:
        with pytest.raises(ranges.InvalidField, match=f"^{field}"):
            check({field: entry["above"]})


def check(fields: dict[str, Any]) -> None:
    resolve_settings(
        {"prompt": "x", "num_frames": 1, "height": 16, "width": 16, **fields},
        latents_shape=None,
        defaults=DEFAULTS,
        grid=GRID,
        served=replace(ANY, token_passes=None),
        fallback_seed=0,
    )


def test_what_was_published_is_read_and_nothing_of_an_earlier_server(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(LimitsNotPublished, match="prepare is being started; try again"):
        read_limits(run)
    publish_limits(run, document())
    assert read_limits(run) == document()
    RunDirectory.of_server(tmp_path, server_pid=1)  # a server that owns the directory from now on
    with pytest.raises(LimitsNotPublished):
        read_limits(run)
