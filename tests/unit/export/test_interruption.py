from tests.own_process import check_in_own_process


def test_sigterm_is_as_good_as_ctrl_c() -> None:
    check_in_own_process("tests/unit/export/signalled_interruption.py")
