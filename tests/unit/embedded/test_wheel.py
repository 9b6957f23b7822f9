"""The server's environment: its own libraries first, then what the machine names."""

import os

import pytest

from embedded.wheel import installed_wheel


@pytest.mark.parametrize(
    ("inherited", "last"), [("/driver/lib64::/more", ["/driver/lib64", "/more"]), ("", []), (None, [])]
)
def test_a_drivers_folder_stays_on_the_library_path_after_the_servers_own(
    inherited: str | None, last: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if inherited is None:
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    else:
        monkeypatch.setenv("LD_LIBRARY_PATH", inherited)
    wheel = installed_wheel()
    own = [str(folder) for folder in wheel.library_folders()]
    assert wheel.environment()["LD_LIBRARY_PATH"].split(os.pathsep) == [*own, *last]
