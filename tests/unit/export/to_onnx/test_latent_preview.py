"""The fitted preview map: kept while it can be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from export.checkpoint.folder import Checkpoint
from export.to_onnx import latent_preview
from wan_t2v.preview import PREVIEW_FILE, PreviewMap


def test_a_damaged_map_is_fitted_again_and_a_whole_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []

    def fit(vae: object) -> PreviewMap:
        fits.append(vae)
        return PreviewMap([[0.0] * 3], [float(len(fits))] * 3)

    monkeypatch.setattr(latent_preview, "fit_preview", fit)
    checkpoint = cast(Checkpoint, SimpleNamespace(folder=tmp_path / "checkpoint", module=lambda component: component))
    folder = tmp_path / "export"
    for times, again in ((1, False), (1, False), (2, True)):
        latent_preview.write_preview(checkpoint, folder, again=again)
        assert len(fits) == times
    (folder / PREVIEW_FILE).write_text('{"weights": [[0.')
    latent_preview.write_preview(checkpoint, folder, again=False)
    assert PreviewMap.from_json((folder / PREVIEW_FILE).read_text()).bias == [3.0] * 3
