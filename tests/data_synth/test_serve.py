"""What a local teacher is started with; tests/vllm_engine starts it."""

import json
import sys

import pytest
from safetensors import safe_open

from data_synth import serve
from data_synth.serve import ServeConfig, server
from runtime.errors import ConfigError

ADDRESS = {"checkpoint": None, "host": "127.0.0.1", "port": 8901, "options": ["--seed", "1"]}


@pytest.fixture
def installed(monkeypatch):
    """As if every backend were there."""
    monkeypatch.setattr(serve, "find_spec", lambda name: name)


def test_vllm_is_given_the_weights_under_the_names_of_a_full_model(installed, tiny, cache):
    command = server(tiny[0], ServeConfig("vllm", **ADDRESS))
    folder = cache / "served" / "tiny_omni-8901"
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert command[command.index("--model") + 1] == str(folder)
    assert command[command.index("--served-model-name") + 1] == "tiny_omni"
    assert command[-6:] == ["--host", "127.0.0.1", "--port", "8901", "--seed", "1"]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    assert "video_processor_type" in json.loads((folder / "video_preprocessor_config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    # every parameter, without a head of its own where it is tied to the embedding
    assert len(names) == len(list(tiny[1].named_parameters())) and all(name.startswith("thinker.") for name in names)


def test_transformers_serves_the_checkpoint_itself(installed, tiny, tmp_path):
    command = server(tiny[0], ServeConfig("transformers", **ADDRESS | {"checkpoint": str(tmp_path)}))
    assert command[1:5] == ["-m", "transformers.cli.transformers", "serve", str(tmp_path)]
    assert "--continuous-batching" in command and command[-2:] == ["--seed", "1"]


def test_a_backend_that_is_unknown_or_not_installed_is_named(monkeypatch):
    with pytest.raises(
        ConfigError, match=r"backend: one of \['transformers', 'vllm'\]; got 'sglang'; mend the command"
    ):
        ServeConfig("sglang", **ADDRESS)
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="backend=vllm: vllm is not installed here; make test-vllm makes an environment"
    ):
        ServeConfig("vllm", **ADDRESS)
    with pytest.raises(
        ConfigError, match="backend=transformers: fastapi is not installed here; the extra `serve` has it"
    ):
        ServeConfig("transformers", **ADDRESS)
