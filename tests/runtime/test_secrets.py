"""What is a secret and what only looks like one; where it is refused, and where it is hidden."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from runtime.errors import ConfigError, StageError
from runtime.main import Crash, command
from runtime.secrets import (
    check_variable,
    redact,
    redact_command,
    redact_text,
    refuse_in_command,
    refuse_in_config,
)

KEY = "planted-fake-key-17"
"""Of no known looks: it has to be known by its variable."""


def test_secrets_are_hidden_and_lookalikes_are_not():
    config = {
        "teacher": {"api_key": "abc", "OPENAI_API_KEY": "abc", "hf_token": "abc", "password": "abc", "token": "abc"},
        "sampling": [{"max_new_tokens": 64, "pad_token": "<pad>", "api_key_env": "OPENAI_API_KEY"}],
        "unset": {"api_key": None, "password": ""},
    }
    assert redact(config) == {
        "teacher": {"api_key": "***", "OPENAI_API_KEY": "***", "hf_token": "***", "password": "***", "token": "***"},
        "sampling": [{"max_new_tokens": 64, "pad_token": "<pad>", "api_key_env": "OPENAI_API_KEY"}],
        "unset": {"api_key": None, "password": ""},
    }


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert redact({"url": "host?k=planted-fake-key-17"}) == {"url": "host?k=***"}
    assert redact_command(["x=planted-fake-key-17"]) == ["x=***"]


def test_command_lines_lose_their_secrets():
    command = [
        "prog",
        "+t.api_key=a,b",
        "--token",
        "abc",
        "--hf-token=abc",
        "t={api_key: abc, n: 3}",
        "max_tokens=5",
        "a=b",
    ]
    shown = [
        "prog",
        "+t.api_key=***",
        "--token",
        "***",
        "--hf-token=***",
        "t={api_key: ***, n: 3}",
        "max_tokens=5",
        "a=b",
    ]
    assert redact_command(command) == shown


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MY_SECRET"])
def test_variables_of_these_names_hold_secrets(name, monkeypatch):
    assert redact_text(f"<{KEY}>") == f"<{KEY}>"
    monkeypatch.setenv(name, KEY)
    assert redact_text(f"<{KEY}>") == "<***>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401: sk-proj-abcdefghij0123456789 is wrong", "401: *** is wrong"),
        ("hf_abcdefghijklmnopqrst", "***"),
        ("ghp_abcdefghij0123456789", "***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("https://me:pass@host/v1 and https://token@host/", "https://***@host/v1 and https://***@host/"),
        (
            "task-sk-short http://host:8901/v1 a@b.c hf_cache bearer of",
            "task-sk-short http://host:8901/v1 a@b.c hf_cache bearer of",
        ),
    ],
)
def test_secrets_are_known_by_their_looks(text, shown):
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        (f"teacher.api_key={KEY}", r"teacher\.api_key=\*\*\*"),
        (f"+teacher={{token: {KEY}}}", r"\+teacher=\{token: \*\*\*\}"),
        ("teacher.api_key_env=sk-abcdefghij0123456789", r"teacher\.api_key_env=\*\*\*"),
        ("teacher.base_url=http://me:pass@host/v1", r"teacher\.base_url=http://\*\*\*@host/v1"),
    ],
)
def test_an_override_with_a_secret_is_refused_without_repeating_it(override, shown):
    with pytest.raises(ConfigError, match=rf"^override {shown}: holds a secret, .* name that in api_key_env") as caught:
        refuse_in_command(["-m", "seed=1,2", override])
    assert KEY not in str(caught.value) and "sk-" not in str(caught.value)


def test_ordinary_overrides_and_unset_keys_pass():
    refuse_in_command(
        ["-m", "seed=1,2", "teacher.api_key_env=OPENAI_API_KEY", "teacher.api_key_env=null", "a.api_key=null"]
    )
    refuse_in_config({"a": {"api_key": None, "max_tokens": 5, "of": ["x"]}, "b": ()})


def test_a_config_with_a_secret_is_refused_by_its_place(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for config, place in (
        ({"teacher": {"headers": {"api_key": "abc"}}}, r"teacher\.headers\.api_key"),
        ({"teacher": {"options": ["a", KEY]}}, r"teacher\.options"),
    ):
        with pytest.raises(ConfigError, match=f"^config {place}: holds a secret") as caught:
            refuse_in_config(config)
        assert KEY not in str(caught.value)


def test_the_name_of_a_variable_must_say_that_it_holds_a_secret():
    check_variable("teacher.api_key_env", "TEACHER_KEY")
    with pytest.raises(
        ConfigError, match=r"teacher.api_key_env: the name of a variable that ends in KEY, .* got 'MINE'"
    ):
        check_variable("teacher.api_key_env", "MINE")
    for key in ("sk-abcdefghij0123456789", "0a1b2c", "hf_abcdefghijklmnopqrst"):
        with pytest.raises(ConfigError, match=r"got something else, maybe the key itself$"):
            check_variable("teacher.api_key_env", key)


def test_a_crash_keeps_its_traceback_and_loses_its_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    @command
    def bug(cfg):
        raise RuntimeError(f"GET http://host/?key={KEY}")

    with pytest.raises(Crash) as caught:
        bug(OmegaConf.create({}))
    text = str(caught.value)
    assert text.startswith("Traceback (most recent call last)") and "in bug" in text
    assert "RuntimeError: GET http://host/?key=***" in text
    assert caught.value.__suppress_context__

    @command
    def mistake(cfg):
        raise StageError(f"the server says {KEY}")

    with pytest.raises(SystemExit, match=r"^error: the server says \*\*\*$"):
        mistake(OmegaConf.create({}))

    @command
    def harmless(cfg):
        raise RuntimeError("nothing secret")

    with pytest.raises(RuntimeError, match="nothing secret"):
        harmless(OmegaConf.create({}))


def test_hydra_never_sees_an_override_with_a_secret(tmp_path):
    """A sweep writes its overrides down before it calls anybody."""
    sweep = [
        "-m",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "hydra.output_subdir=.hydra",
        "seed=1,2",
        f"+teacher.api_key={KEY}",
    ]
    command = [sys.executable, "-m", "data_synth", *sweep]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: override +teacher.api_key=***: holds a secret")
    assert KEY not in done.stdout + done.stderr and list(tmp_path.iterdir()) == []
