"""A local teacher, in a process of its own: `python -m data_synth.serve model=tiny_omni backend=vllm port=8901`.

The project's own models behind a real server, to try synthesis on a machine without a GPU; then `python -m data_synth
teacher=local teacher.model=tiny_omni`. The two servers differ where it matters: vLLM honours `n`, schemas and media,
`transformers serve` passes over the first two, and over media that its model does not take, without a word
(`models/probe.py` notices).
"""

import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig
from safetensors.torch import save_file

from models.engine.weights import policy_weights
from models.load import ModelConfig, base_checkpoint, cache_folder, load_model, save_for_engine
from runtime.config import section
from runtime.errors import ConfigError
from runtime.files import write_json
from runtime.main import verb

VLLM = [
    *("--worker-extension-cls", "models.engine.vllm_worker.PolicyWorker"),  # mends sound inside a video
    *("--limit-mm-per-prompt", '{"audio": 2, "image": 1, "video": 1}'),
    *("--enforce-eager", "--kv-cache-memory-bytes", "200M"),
    # on a CPU, a request with a seed whose prompt is computed in pieces kills vLLM 0.30
    *("--no-enable-chunked-prefill", "--max-model-len", "4096", "--max-num-batched-tokens", "4096"),
]
NEEDS = {
    "vllm": ("vllm", "make test-vllm makes an environment with it"),
    "transformers": ("fastapi", "the extra `serve` has it"),
}


@dataclass(frozen=True)
class ServeConfig:
    """What conf/serve.yaml explains.

    Raises:
        ConfigError: for a backend that is unknown or not installed.
    """

    backend: str
    checkpoint: str | None
    host: str
    port: int
    options: list[str]

    def __post_init__(self) -> None:
        if self.backend not in NEEDS:
            raise ConfigError(f"backend: one of {sorted(NEEDS)}; got {self.backend!r}; mend the command")
        package, remedy = NEEDS[self.backend]
        if find_spec(package) is None:
            raise ConfigError(f"backend={self.backend}: {package} is not installed here; {remedy}")


def server(model: ModelConfig, cfg: ServeConfig) -> list[str]:
    """The command that serves `model`, once what it serves is written."""
    checkpoint = base_checkpoint(model) if cfg.checkpoint is None else Path(cfg.checkpoint)
    address = ["--host", cfg.host, "--port", str(cfg.port)]
    if cfg.backend == "transformers":
        program = ["-m", "transformers.cli.transformers", "serve", str(checkpoint), "--continuous-batching"]
        return [sys.executable, *program, *address, *cfg.options]
    folder = cache_folder() / "served" / f"{model.name}-{cfg.port}"
    save_for_engine(checkpoint, folder)
    weights = policy_weights(load_model(model, checkpoint, train=False))
    if (
        model.family == "omni"
    ):  # vLLM 0.30 looks for it here, and stumbles over transformers' table of processors without it
        processor = json.loads((folder / "processor_config.json").read_text())
        write_json(folder / "video_preprocessor_config.json", processor["video_processor"])
    save_file({name: value.clone() for name, value in weights}, folder / "model.safetensors", {"format": "pt"})
    program = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", model.name]
    return [sys.executable, *program, "--dtype", model.dtype, *VLLM, *address, *cfg.options]


@verb("serve")
def main(cfg: DictConfig) -> None:
    """Become the server."""
    own = {"serve": {key: cfg[key] for key in ("backend", "checkpoint", "host", "port", "options")}}
    arguments = server(section(cfg, "model", ModelConfig), section(DictConfig(own), "serve", ServeConfig))
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault(
        "VLLM_ENGINE_READY_TIMEOUT_S", "1800"
    )  # a busy machine may need more than the ten minutes of vLLM
    os.execv(arguments[0], arguments)


if __name__ == "__main__":
    main()
