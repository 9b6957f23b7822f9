"""The check of the image's build."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.image import check_image
from tests.deploy.rendering import ROOT


def test_the_images_check_finds_what_is_wrong(tmp_path: Path) -> None:
    import numpy

    (tmp_path / "a.lock").write_text(f"numpy=={numpy.__version__} \\\n    --hash=sha256:0\nnot-there==1\npytest==0.1\n")
    problems = list(check_image.wrong_packages(check_image.locked(tmp_path / "a.lock")))
    assert problems[0] == "not-there is missing, the lock names 1"
    assert problems[1].startswith("pytest is ") and len(problems) == 2
    assert list(check_image.failing_imports(("json",))) == []
    assert "no_such_module" in next(check_image.failing_imports(("no_such_module",)))
    assert "tensorrt" in check_image.IMPORTED
    assert "has no OnnxParser" in next(check_image.missing_parser("json"))
    assert not list(check_image.missing_parser("no_such_module")), "told once, among the imports"
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert/model.plan").touch()
    assert "holds weights" in next(check_image.unwanted_files(tmp_path))
    assert not list(check_image.unwanted_files(ROOT / "model_repository/text_to_video"))


def test_the_images_check_compares_the_tensorrt_library_with_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(getInferLibVersion=lambda: 110100)
    monkeypatch.setattr(check_image, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    assert not list(check_image.wrong_tensorrt("11.1.0.106"))
    assert "the image is 11.1.0, the lock names 11.2.1.2" in next(check_image.wrong_tensorrt("11.2.1.2"))
    monkeypatch.undo()
    assert "cannot be loaded" in next(check_image.wrong_tensorrt("11.1.0.106"))
