import json
from pathlib import Path

import pytest

from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, ModelFacts, ServingDefaults
from wan_t2v.installed_files import FILES_MANIFEST, FilesManifest, InstalledFileError, check_installed, sha256_of_file
from wan_t2v.preview import PREVIEW_FILE, PreviewMap


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One installed file and its manifest."""
    (tmp_path / FACTS_FILE).write_text("{}")
    manifest = FilesManifest({FACTS_FILE: sha256_of_file(tmp_path / FACTS_FILE)}, {"vae": {"checkpoint_sha256": "a"}})
    (tmp_path / FILES_MANIFEST).write_text(manifest.to_json())
    return tmp_path


def test_a_file_of_its_manifest_passes(folder: Path) -> None:
    assert check_installed(folder, [FACTS_FILE]).graphs == {"vae": {"checkpoint_sha256": "a"}}


def test_a_changed_file_is_refused_with_the_remedy(folder: Path) -> None:
    (folder / FACTS_FILE).write_text("{ }")
    with pytest.raises(InstalledFileError, match=r"model_facts.json is not the file that .* run `make export` again"):
        check_installed(folder, [FACTS_FILE])


def test_a_file_that_the_manifest_does_not_name_is_refused(folder: Path) -> None:
    (folder / PREVIEW_FILE).write_text("{}")
    with pytest.raises(InstalledFileError, match="is not the file that its manifest describes"):
        check_installed(folder, [PREVIEW_FILE])


def test_a_missing_file_or_manifest_is_named_with_the_command(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"serving_defaults.json is missing. Run `make export`"):
        check_installed(folder, [DEFAULTS_FILE])
    (folder / FILES_MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing. Run `make export`"):
        check_installed(folder, [FACTS_FILE])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"files": 1, "graphs": 2}', b"\xff\xfe", b"{"])
def test_a_damaged_file_is_named_and_not_its_parsers_error(content: bytes, folder: Path) -> None:
    (folder / FILES_MANIFEST).write_bytes(content)
    with pytest.raises(InstalledFileError, match=r"manifest.json is damaged .* Run `make export` again"):
        check_installed(folder, [FACTS_FILE])
    for name, read in ((FACTS_FILE, ModelFacts), (DEFAULTS_FILE, ServingDefaults), (PREVIEW_FILE, PreviewMap)):
        (folder / name).write_bytes(content)
        with pytest.raises(InstalledFileError, match=rf"{name} is damaged"):
            read.read(folder)


def test_an_integer_stands_for_a_number_and_true_for_neither(folder: Path, checkpoint: Path) -> None:
    entries = json.loads((checkpoint / DEFAULTS_FILE).read_text())
    assert ServingDefaults.from_entries({**entries, "guidance_scale": {"value": 4}}).guidance_scale == 4
    for value in (True, None, "4"):
        with pytest.raises(ValueError, match=r"guidance_scale is .*, accepted: a number"):
            ServingDefaults.from_entries({**entries, "guidance_scale": {"value": value}})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sigmas", [0.5, 1.0, 0.0], r"sigmas is \[0.5, 1.0, 0.0\], accepted: a list of numbers that fall from 1"),
        ("sigmas", [1.0, 0.5], "sigmas is"),
        ("sigmas", [1.5, 0.0], "sigmas is"),
        ("sigmas", [10**400, 0], r"sigmas is \[1000"),
        ("sigmas", [1, -(10**400), 0], r"sigmas is \[1, -1000"),
        ("sigmas", [0.5, 0.25, 0], "sigmas begins at 0.5, accepted: 0.99 to 1, since a generation starts from noise"),
        ("sigmas", [0.989, 0.0], "sigmas begins at 0.989"),
        ("sigmas", "1, 0", "sigmas is '1, 0'"),
        ("sigmas", [float("nan"), 0.0], "sigmas is"),
        ("sigmas", [True, 0], "sigmas is"),
        ("sigmas", [1.0, 0.5, 0.0], "sigmas has 3 numbers, accepted: 41 for 40 steps"),
        ("solver", 3, "solver is 3, accepted: unipc or euler"),
        ("solver", "eular", "solver is 'eular', accepted: unipc or euler"),
        ("step_profiles", [], r"step_profiles is \[\], accepted: an object of profiles"),
        ("step_profiles", {"exact": {}}, "step_profiles: the name 'exact', accepted: another word"),
        ("step_profiles", {"Very Fast": {}}, "step_profiles: the name 'Very Fast'"),
        (
            "step_profiles",
            {"fast": {"step_cache": 2}},
            "step_profiles: fast: step_cache is 2, accepted: a number from 0",
        ),
        (
            "step_profiles",
            {"fast": {}},
            "step_profiles: fast: no pass is left out, accepted: a step_cache, static_reuse",
        ),
    ],
)
def test_what_a_deployment_may_add_is_checked_by_name(name: str, value: object, message: str, checkpoint: Path) -> None:
    entries = json.loads((checkpoint / DEFAULTS_FILE).read_text())
    with pytest.raises(ValueError, match=message):
        ServingDefaults.from_entries({**entries, name: {"value": value}})


def test_what_a_deployment_may_add_may_be_left_out(checkpoint: Path) -> None:
    entries = json.loads((checkpoint / DEFAULTS_FILE).read_text())
    steps = {"num_inference_steps": {"value": 2}}
    given = ServingDefaults.from_entries({**entries, **steps, "sigmas": {"value": [1, 0.625, 0]}})
    assert (given.sigmas, list(given.step_profiles)) == ((1.0, 0.625, 0.0), ["quality", "balanced", "fast"])
    nearly_one = ServingDefaults.from_entries({**entries, **steps, "sigmas": {"value": [0.99, 0.625, 0]}})
    assert nearly_one.sigmas == (0.99, 0.625, 0.0)
    for name in ("solver", "step_profiles"):
        del entries[name]
    given = ServingDefaults.from_entries(entries)
    assert (given.solver, given.sigmas, given.step_profiles) == ("unipc", (), {})
