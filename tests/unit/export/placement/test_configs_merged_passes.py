"""Plans that take two rows: placement lets Triton merge the guidance passes, as `EXPERT_BATCH=2` promises."""

import json
import shutil
from pathlib import Path

import pytest

from export.placement.configs import placed_configs, write_configs
from export.placement.gpu_memory import SettingsError, VaeEngine
from export.placement.layouts import Layout, Placement
from export.placement.pick_layout import placements
from tests.unit.export.placement.arrangements import asked, gpus
from wan_t2v.contract import EXPERTS, STREAM, UNARY


def placed(layout: Layout, *cards: str) -> Placement:
    candidates = placements(asked("720x1280", endpoints=(UNARY, STREAM)), gpus(*cards), layout)
    return next(placement for placement in candidates if placement.vae_engine is VaeEngine.IN_PROCESS)


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """The configs of the model repository."""
    for path in repository.glob("*/config.pbtxt"):
        target = tmp_path / path.relative_to(repository)
        target.parent.mkdir()
        shutil.copyfile(path, target)
    return tmp_path


def install_plans(repository: Path, batch: object) -> None:
    for expert in EXPERTS:
        home = repository / expert / "1"
        home.mkdir(exist_ok=True)
        (home / "plan.json").write_text(json.dumps({"batch": batch}))


@pytest.mark.parametrize(
    ("layout", "cards"),
    [(Layout.BOTH, ["141"]), (Layout.EXPERT_EACH, ["80", "80"]), (Layout.ONE_AT_A_TIME, ["80"])],
)
def test_passes_are_merged_where_plans_take_two_rows(layout: Layout, cards: list[str], copied: Path) -> None:
    install_plans(copied, 2)
    configs = placed_configs(placed(layout, *cards), copied)
    for expert in EXPERTS:
        assert configs[expert].max_batch_size == 2
        assert configs[expert].dynamic_batching.max_queue_delay_microseconds == 20_000
    for model in ("denoiser", "text_to_video_stream"):
        assert configs[model].parameters["guidance_passes"].string_value == "together"


@pytest.mark.parametrize("batch", [None, 1])
def test_plans_of_one_row_and_no_plans_merge_nothing(batch: int | None, copied: Path) -> None:
    if batch is not None:
        install_plans(copied, batch)
    configs = placed_configs(placed(Layout.BOTH, "141"), copied)
    assert {configs[expert].max_batch_size for expert in EXPERTS} == {1}
    assert not any(configs[expert].HasField("dynamic_batching") for expert in EXPERTS)
    assert configs["denoiser"].parameters["guidance_passes"].string_value == "in_turn"


def test_two_gpus_run_the_passes_at_the_same_time_and_merge_nothing(copied: Path) -> None:
    install_plans(copied, 2)
    configs = placed_configs(placed(Layout.BOTH, "141", "141"), copied)
    assert not any(configs[expert].HasField("dynamic_batching") for expert in EXPERTS)
    assert configs["denoiser"].parameters["guidance_passes"].string_value == "together"


@pytest.mark.parametrize("batch", ["2", 0, True])
def test_a_batch_that_is_no_count_is_refused(batch: object, copied: Path) -> None:
    install_plans(copied, batch)
    with pytest.raises(
        SettingsError, match=r"plan.json has batch .*, accepted: a whole number from 1 up. Build the plans"
    ):
        write_configs(placed(Layout.BOTH, "141"), copied, "gpus")
