"""Alpha beside the tensors: which statement counts, and which is refused."""

import json
from pathlib import Path

import pytest

from export.checkpoint.config_file import CheckpointError
from export.lora.alpha import adapter_config


def beside(folder: Path, **config: object) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter_model.safetensors"


def test_patterns_and_the_root_of_the_rank_mean_what_they_mean_in_peft(tmp_path: Path) -> None:
    config = adapter_config(beside(tmp_path, lora_alpha=8, alpha_pattern={"attn1.to_q": 2}), {})
    assert config is not None and config.sha256
    assert config.factor(["blocks.0.attn1.to_q"], 4) == 0.5
    assert config.factor(["blocks.0.attn2.to_q"], 4) == 2.0
    assert config.factor(["blocks.0.self_attn.q", "base_model.model.blocks.0.attn1.to_q"], 4) == 0.5, "by either name"
    stabilised = adapter_config(beside(tmp_path, lora_alpha=8, use_rslora=True), {})
    assert stabilised is not None and stabilised.factor(["a"], 4) == 4.0


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("blocks.0.attn1.to_q", True),
        (r"^blocks\.\d+\.attn[12]\.to_(q|k|v)$", True),
        (r"(?:.*\.)?attn1\.to_[qk]", True),
        ("blocks.*to_out.0", False),
        ("to_q|to_k", True),
    ],
)
def test_simple_patterns_are_matched(pattern: str, fits: bool, tmp_path: Path) -> None:
    config = adapter_config(beside(tmp_path, lora_alpha=8, alpha_pattern={pattern: 2}), {})
    assert config is not None
    assert config.factor(["blocks.0.attn1.to_q"], 1) == (2.0 if fits else 8.0)


def test_a_config_beside_a_file_of_another_name_is_not_its(tmp_path: Path) -> None:
    beside(tmp_path, lora_alpha=8)
    assert adapter_config(tmp_path / "other.safetensors", {}) is None


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"lora_alpha": 8, "use_dora": True}, "use_dora is set, accepted: a plain LoRA"),
        ({"lora_alpha": "8"}, "lora_alpha must be a number"),
        ({"lora_alpha": 8, "alpha_pattern": {"(": 1}}, "alpha_pattern numbers by module"),
        *(
            ({"lora_alpha": 8, "alpha_pattern": {pattern: 1}}, "alpha_pattern has .* accepted: modules' names")
            for pattern in (
                "(b|bl|o|c|k|s|.)*x",
                "(.*)+x",
                "(.*){9}x",
                ".*.*.*.*x",
                "(?=.*)x",
                "(.)(.)(.)(.)x",
                "(.)\\1",
                "x" * 501,
            )
        ),
        ({"lora_alpha": 0}, "an alpha is 0, which changes nothing; accepted: other numbers"),
        ({"lora_alpha": 8, "alpha_pattern": {"to_q": 0.0}}, "an alpha is 0"),
        *(
            ({"lora_alpha": 8, "init_lora_weights": init}, f"init_lora_weights is '{init}', .*_for_weight_conversion")
            for init in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")
        ),
    ],
)
def test_what_is_not_understood_is_refused(config: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told):
        adapter_config(beside(tmp_path, **config), {})
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in config.items()})}
    with pytest.raises(CheckpointError, match=f"the header of .*{told}"):
        adapter_config(tmp_path / "lora.safetensors", header)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_a_beginning_that_leaves_the_base_weights_is_read(init: object, tmp_path: Path) -> None:
    assert adapter_config(beside(tmp_path, lora_alpha=8, init_lora_weights=init), {}) is not None


def test_a_header_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_adapter_metadata in its header is no JSON"):
        adapter_config(tmp_path / "lora.safetensors", {"lora_adapter_metadata": "{"})
