"""What every refusal has to be."""

from __future__ import annotations


def check_line(error: Exception, words: str = "") -> None:
    message = str(error)
    assert message.strip(), "an empty message"
    assert words in message
    assert "Traceback" not in message
    assert len(message) < 3000
