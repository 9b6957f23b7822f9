"""What a server publishes of its limits is what it holds requests to."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from wan_t2v import request
from wan_t2v.contract import STREAM_REQUEST
from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.field_checks import ranges
from wan_t2v.field_checks.ranges import RANGES, NumberRange
from wan_t2v.field_checks.sizes import ServedSizes, size_ranges
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import resolve_settings
from wan_t2v.serving.published_limits import (
    LimitsNotPublished,
    limits_document,
    publish_limits,
    read_limits,
    read_served_sizes,
)
from wan_t2v.shapes import LatentGrid, VideoShape
from wan_t2v.step_profiles.profile import EXACT, StepProfile

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)
FACTS = ModelFacts(GRID, (), (), 0.875, 1000, {}, text_length=512, text_dim=4096)
FAST = StepProfile(step_cache=0.1, guidance_skip=0.25)
PROFILES = {"fast": FAST}
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
    assert document()["fields"]["step_profile"]["choices"] == ["exact", "fast"]
    assert document()["step_profiles"] == {"least_steps": 16, "exact": ["exact"]}


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


@pytest.mark.parametrize("field", ["guidance_scale", "guidance_scale_2", "flow_shift", "step_cache", "guidance_skip"])
def test_a_published_bound_is_accepted_in_single_precision_and_the_next_number_is_not(field: str) -> None:
    """As a request has it: 0.01 arrives as 0.00999999978."""
    entry = document()["fields"][field]
    for bound, away in ((entry["minimum"], -np.inf), (entry["maximum"], np.inf)):
        check({field: float(np.float32(bound))})
        with pytest.raises(ranges.InvalidField, match=f"^{field}"):
            check({field: float(np.nextafter(np.float32(bound), np.float32(away)))})


def test_the_published_defaults_beside_a_profile_leave_it_as_it_is() -> None:
    """A default of 0 for `step_cache` was published: who sent all defaults and `fast` got an exact generation."""
    published = {name: entry["default"] for name, entry in document()["fields"].items() if "default" in entry}
    assert not published.keys() & {"step_cache", "guidance_skip", "seed"}
    sent = {name: value for name, value in published.items() if name not in ("preview_every", "step_profile")}
    assert check({**sent, "step_profile": "fast"}).profile == FAST
    assert check({**sent, "step_profile": published["step_profile"]}).profile == EXACT


def check(fields: dict[str, Any]) -> request.Settings:
    return resolve_settings(
        {"prompt": "x", "num_frames": 1, "height": 16, "width": 16, **fields},
        latents_shape=None,
        defaults=DEFAULTS,
        grid=GRID,
        served=replace(ANY, token_passes=None),
        fallback_seed=0,
    )


@pytest.mark.parametrize("served", [ANY, LISTED])
def test_the_sizes_that_were_published_are_those_that_prepare_serves(served: ServedSizes, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    publish_limits(run, limits_document(defaults=DEFAULTS, facts=FACTS, served=served))
    found = read_served_sizes(run)
    assert (found.listed, found.token_passes) == (served.listed, served.token_passes)
    if not served.listed:
        assert size_ranges(GRID, found.largest) == size_ranges(GRID, served.largest)


def test_what_was_published_is_read_and_nothing_of_an_earlier_server(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(LimitsNotPublished, match="prepare is being started; try again"):
        read_limits(run)
    publish_limits(run, document())
    assert read_limits(run) == document()
    RunDirectory.of_server(tmp_path, server_pid=1)  # a server that owns the directory from now on
    with pytest.raises(LimitsNotPublished):
        read_limits(run)
