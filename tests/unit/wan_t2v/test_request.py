from dataclasses import replace
from typing import Any

import pytest

from wan_t2v.facts import ServingDefaults
from wan_t2v.field_checks import invalid_field
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.names import check_parameters
from wan_t2v.field_checks.sizes import ServedSizes
from wan_t2v.field_checks.texts import check_prompt_bytes, check_word
from wan_t2v.request import Settings, resolve_settings
from wan_t2v.shapes import LatentGrid, VideoShape
from wan_t2v.step_profiles.profile import EXACT, StepProfile

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)
FAST = StepProfile(step_cache=0.1, guidance_skip=0.25)
SKIPS = StepProfile(guidance_skip=0.5)
PROFILES = {"fast": FAST, "static": StepProfile(static_reuse=1), "skips": SKIPS}
DEFAULTS = ServingDefaults(128, 128, 17, 40, 4.0, 3.0, 12.0, 16, "blurred", PROFILES)
ANY = ServedSizes(largest=VideoShape(81, 256, 256))
LISTED = ServedSizes(VideoShape(81, 1280, 1280), (VideoShape(81, 480, 832), VideoShape(81, 720, 1280)))


def checked(fields: dict[str, Any], *, latents: tuple[int, ...] | None = None, served: ServedSizes = ANY) -> Settings:
    return resolve_settings(
        {"prompt": "a ball", **fields},
        latents_shape=latents,
        defaults=DEFAULTS,
        grid=GRID,
        served=served,
        fallback_seed=99,
    )


def test_absent_fields_take_their_defaults() -> None:
    settings = checked({})
    assert settings == Settings("a ball", "blurred", 128, 128, 17, 40, 4.0, 3.0, 12.0, 99, 16, "mp4", "raw")
    assert settings.video_shape == VideoShape(17, 128, 128)


def test_a_request_of_too_much_work_is_refused_with_the_steps_that_are_not() -> None:
    """Seventeen requests of 200 bytes were 90 hours of work that nothing but a restart ended."""
    served = replace(ANY, token_passes=500_000)
    largest = {"height": 256, "width": 256, "num_frames": 81}
    checked({**largest, "num_inference_steps": 46}, served=served)
    checked({**largest, "num_inference_steps": 93, "guidance_scale": 1.0}, served=served)
    with pytest.raises(InvalidField) as refusal:
        checked({**largest, "num_inference_steps": 47}, served=served)
    assert str(refusal.value) == (
        "num_inference_steps: got 47 for 256x256x81, 94 passes over 5376 tokens; "
        "accepted: at most 500000 tokens x passes in one request. Nearest: 46."
    )
    with pytest.raises(InvalidField, match=r"in one request\.$"):
        checked(largest, served=replace(ANY, token_passes=5376))


@pytest.mark.parametrize(("encoding", "carried"), [("raw", b"a PNG"), ("base64", b"YSBQTkc=")])
def test_pictures_are_carried_as_the_request_asks(encoding: str, carried: bytes) -> None:
    assert checked({"video_encoding": encoding}).encoded(b"a PNG") == carried


def test_settings_survive_json() -> None:
    settings = checked({"prompt": "ein Ball, 漢字", "seed": 2**63 - 1})
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "prompt: got an empty text; accepted: a text that describes the video."),
        ({"height": 100}, "height: got 100; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 96."),
        ({"height": -5}, "height: got -5; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 16."),
        ({"width": 272}, "width: got 272; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 256."),
        ({"num_frames": 80}, "num_frames: got 80; accepted: 4k+1 (1, 5, ...) up to 81. Nearest: 81."),
        ({"num_frames": 0}, "num_frames: got 0; accepted: 4k+1 (1, 5, ...) up to 81. Nearest: 1."),
        ({"num_frames": 85}, "num_frames: got 85; accepted: 4k+1 (1, 5, ...) up to 81. Nearest: 81."),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0; accepted: an integer from 1 to 1000. Nearest: 1."),
        ({"num_inference_steps": 1001}, "an integer from 1 to 1000. Nearest: 1000."),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan; accepted: a number from 0 to 100."),
        ({"guidance_scale_2": float("inf")}, "guidance_scale_2: got inf; accepted: a number from 0 to 100."),
        ({"guidance_scale": -1.0}, "guidance_scale: got -1.0; accepted: a number from 0 to 100. Nearest: 0.0."),
        ({"guidance_scale": 1e38}, "guidance_scale: got 1e+38; accepted: a number from 0 to 100. Nearest: 100.0."),
        ({"guidance_scale_2": 101.0}, "guidance_scale_2: got 101.0; accepted: a number from 0 to 100. Nearest: 100.0."),
        ({"flow_shift": 0.0}, "flow_shift: got 0.0; accepted: a number from 0.01 to 100. Nearest: 0.01."),
        ({"flow_shift": 1e-44}, "flow_shift: got 1e-44; accepted: a number from 0.01 to 100. Nearest: 0.01."),
        ({"flow_shift": 101.0}, "flow_shift: got 101.0; accepted: a number from 0.01 to 100. Nearest: 100.0."),
        ({"seed": -1}, "seed: got -1; accepted: an integer from 0 to 9223372036854775807. Nearest: 0."),
        ({"fps": 0}, "fps: got 0; accepted: an integer from 1 to 120. Nearest: 1."),
        ({"output_type": "latent"}, "output_type: got 'latent'; accepted: mp4 or frames or latents. Nearest: latents."),
        ({"video_encoding": "hex"}, "video_encoding: got 'hex'; accepted: raw or base64."),
    ],
)
def test_a_bad_field_is_refused_with_advice(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        checked(fields)
    assert message in str(refusal.value)
    assert refusal.value.field in fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 100),
        ("height", -5),
        ("width", 272),
        ("num_frames", 80),
        ("num_frames", 0),
        ("num_frames", 10**6),
        ("num_inference_steps", 1001),
        ("guidance_scale", -1.0),
        ("guidance_scale_2", 1e38),
        ("flow_shift", 101.0),
        ("flow_shift", 0.0),
        ("seed", -1),
        ("fps", 0),
        ("output_type", "latent"),
    ],
)
def test_the_advice_works(field: str, value: Any) -> None:
    with pytest.raises(InvalidField) as refusal:
        checked({field: value})
    checked({field: refusal.value.nearest})


@pytest.mark.parametrize("fields", [{"height": 1290}, {"num_frames": 18}, {"width": 100}, {}])
def test_the_advice_works_where_sizes_are_listed(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidField) as refusal:
        checked(fields, served=LISTED)
    assert refusal.value.nearest in LISTED.listed


def test_a_missing_prompt_is_refused() -> None:
    with pytest.raises(InvalidField, match="prompt: got nothing"):
        resolve_settings({}, latents_shape=None, defaults=DEFAULTS, grid=GRID, served=ANY, fallback_seed=0)


def test_latents_must_fit_the_clip() -> None:
    checked({}, latents=(1, 16, 5, 16, 16))
    with pytest.raises(InvalidField, match=r"latents: got shape \[2, 16, 5, 16, 16\]; accepted: shape \[1, 16, 5"):
        checked({}, latents=(2, 16, 5, 16, 16))


def test_a_closed_list_of_sizes_is_closed() -> None:
    checked({"height": 480, "width": 832, "num_frames": 81}, served=LISTED)
    with pytest.raises(
        InvalidField, match="accepted: height x width x frames 480x832x81, 720x1280x81. Nearest: 720x1280x81"
    ):
        checked({"height": 720, "width": 1264, "num_frames": 81}, served=LISTED)


def test_guidance_is_decided_by_the_first_scale_alone() -> None:
    assert checked({"guidance_scale": 1.01, "guidance_scale_2": 0.5}).guided
    assert not checked({"guidance_scale": 1.0, "guidance_scale_2": 5.0}).guided


def test_settings_are_frozen() -> None:
    settings = checked({})
    assert replace(settings, seed=1) != settings
    with pytest.raises(AttributeError):
        settings.seed = 1  # type: ignore[misc]


def test_what_is_long_is_neither_compared_nor_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of one MiB took 0.085 s and 45 MiB, before anybody knew whether there was a place."""
    monkeypatch.setattr(invalid_field, "get_close_matches", lambda *_, **__: pytest.fail("compared"))
    long = "x" * 2**20
    refusals = []
    for refuse in (
        lambda: check_parameters([long], fields=["seed"], parameters=["timeout"]),
        lambda: checked({"output_type": long}),
        lambda: check_word("output_type", long.encode()),
        lambda: check_prompt_bytes("prompt", long.encode()),
    ):
        with pytest.raises(InvalidField) as refusal:
            refuse()
        refusals.append(str(refusal.value))
    assert all(len(text) < 400 for text in refusals)
    assert f"{'x' * 200}... (1048576 characters): got an unknown field" in refusals[0]


@pytest.mark.parametrize(
    ("fields", "name", "profile"),
    [
        ({}, "exact", EXACT),
        ({"step_profile": "exact"}, "exact", EXACT),
        ({"step_cache": 0.0, "guidance_skip": 0.0}, "exact", EXACT),
        ({"step_profile": "fast"}, "fast", FAST),
        ({"step_profile": "fast", "guidance_scale": 1.0}, "fast", FAST),
        ({"step_profile": "skips"}, "skips", SKIPS),
        ({"step_profile": "fast", "guidance_skip": 0.0}, "fast", StepProfile(step_cache=0.1)),
        ({"step_cache": 0.02}, "custom", StepProfile(step_cache=0.02)),
        ({"guidance_skip": 0.5}, "custom", StepProfile(guidance_skip=0.5)),
    ],
)
def test_a_profile_is_named_or_given_in_raw_values(fields: dict[str, Any], name: str, profile: StepProfile) -> None:
    settings = checked(fields)
    assert (settings.step_profile, settings.profile) == (name, profile)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"step_profile": "fats"},
            "step_profile: got 'fats'; accepted: exact or fast or static or skips. Nearest: fast.",
        ),
        ({"step_profile": "custom"}, "step_profile: got 'custom'; accepted: exact or fast or static or skips"),
        ({"step_cache": 1.5}, "step_cache: got 1.5; accepted: a number from 0 to 1. Nearest: 1.0."),
        ({"step_cache": float("nan")}, "step_cache: got nan; accepted: a number from 0 to 1."),
        ({"guidance_skip": -0.1}, "guidance_skip: got -0.1; accepted: a number from 0 to 1. Nearest: 0.0."),
        ({"step_profile": "exact", "step_cache": 0.1}, "step_profile: got exact with .*'step_cache': 0.1"),
        (
            {"step_profile": "fast", "num_inference_steps": 15},
            "step_profile: got fast with 15 steps; accepted: exact, or",
        ),
        ({"step_cache": 0.1, "num_inference_steps": 4}, "step_cache: got custom with 4 steps"),
        (
            {"guidance_skip": 0.2, "guidance_scale": 1.0},
            "guidance_skip: got 0.2 with guidance_scale 1; accepted: 0 where",
        ),
        (
            {"step_profile": "skips", "guidance_scale": 1.0},
            "step_profile: got skips, which skips negative passes, with guidance_scale 1; accepted: exact where",
        ),
    ],
)
def test_a_profile_that_cannot_mean_anything_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message.replace(". Nearest", r"\. Nearest")):
        checked(fields)


SIGMAS = (1.0, 0.9375, 0.8333, 0.625, 0.0)
DISTILLED = replace(DEFAULTS, num_inference_steps=4, flow_shift=5.0, guidance_scale=1.0, solver="euler", sigmas=SIGMAS)


@pytest.mark.parametrize(
    ("fields", "solver", "sigmas"),
    [
        ({}, "euler", SIGMAS),
        ({"num_inference_steps": 4, "flow_shift": 5.0}, "euler", SIGMAS),
        ({"flow_shift": 5.0000001}, "euler", SIGMAS),  # what single precision makes of some numbers
        ({"num_inference_steps": 8}, "euler", ()),
        ({"flow_shift": 3.0}, "euler", ()),
        ({"solver": "unipc"}, "unipc", ()),
    ],
)
def test_the_deployments_noise_levels_hold_for_its_own_steps_and_shift(
    fields: dict[str, Any], solver: str, sigmas: tuple[float, ...]
) -> None:
    settings = resolve_settings(
        {"prompt": "a ball", **fields}, latents_shape=None, defaults=DISTILLED, grid=GRID, served=ANY, fallback_seed=99
    )
    assert (settings.solver, settings.sigmas) == (solver, sigmas)
    assert Settings.from_json(settings.to_json()) == settings


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(InvalidField, match="solver: got 'eular'; accepted: unipc or euler. Nearest: euler."):
        checked({"solver": "eular"})
