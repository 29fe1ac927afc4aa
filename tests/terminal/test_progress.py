import io
import sys

from nami_jax.terminal.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO, monkeypatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=500, desc="training", unit="step") as bar:
        for _ in range(500):
            bar.update()
        bar.set_postfix_str("loss 1", refresh=False)
    return stream.getvalue()


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch):
    monkeypatch.delenv("TQDM_MININTERVAL")
    first, last = drawn(io.StringIO(), monkeypatch).splitlines()
    assert first.startswith("training: 0% 0/500 [00:00<?")
    assert last.startswith("training: 100% 500/500 [00:00<00:00, ")
    assert last.endswith("step/s, loss 1]")
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    assert len(drawn(io.StringIO(), monkeypatch).splitlines()) > 400


def test_a_terminal_gets_one_bar_that_is_drawn_over(monkeypatch):
    text = drawn(Terminal(), monkeypatch)
    assert "\r" in text
    assert "█" in text or "#" in text
