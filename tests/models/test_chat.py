"""The chat client by itself; against a server it is tested with the teacher and with the judge."""

import pytest

from models.chat import Chat, openai_part
from runtime.errors import ConfigError, MediaError


def test_errors_begin_with_the_name_of_the_section(monkeypatch):
    values = {"base_url": "http://x/v1", "model": "m", "api_key_env": None, "temperature": 0.0, "max_tokens": 4}
    values |= {"seed": None, "concurrency": 1, "retries": 0, "timeout": 1.0}
    with pytest.raises(ConfigError, match=r"judge.max_tokens: 1 or more; got 0"):
        Chat("judge", **(values | {"max_tokens": 0}))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge.api_key_env: the environment variable 'NO_SUCH_KEY' is not set"):
        Chat("judge", **(values | {"api_key_env": "NO_SUCH_KEY"}))
    assert Chat("judge", **values).settings() == {
        "base_url": "http://x/v1",
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 4,
    }


def test_a_file_that_cannot_be_sent_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"whole files alone are sent, got span \(0.0, 1.0\)"):
        openai_part({"type": "video", "path": "a.mp4", "span": (0.0, 1.0)})
    (tmp_path / "a.png").write_bytes(b"1")
    sent = openai_part({"type": "image", "path": str(tmp_path / "a.png"), "span": None})
    assert sent == {"type": "image_url", "image_url": {"url": "data:image/png;base64,MQ=="}}
