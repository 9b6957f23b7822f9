"""How often a caller is asked for."""

from wan_t2v.serving.loop.cancellation_checks import ask_at_most_every


def test_a_caller_is_asked_at_most_once_per_interval_and_the_answer_holds() -> None:
    seconds, asked, cancelled = 0.0, 0, False

    def is_cancelled() -> bool:
        nonlocal asked
        asked += 1
        return cancelled

    ask = ask_at_most_every(0.25, is_cancelled, now=lambda: seconds)
    assert [ask(), ask()] == [False, False] and asked == 1
    cancelled, seconds = True, 0.2
    assert not ask() and asked == 1
    seconds = 0.25
    assert ask() and asked == 2
    cancelled, seconds = False, 9.0
    assert ask() and asked == 2, "a cancellation is not taken back"
