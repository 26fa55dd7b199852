"""One GRPO step of ms-swift 4.6 and ours: same checkpoint, prompts, settings and completion lengths.

    python -m benchmarks.peers PYTHON_OF_MS_SWIFT

README.md says how to make that environment.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniProcessor

from benchmarks.group import score_shared, scorer
from benchmarks.scene import FULL, QUESTION, Scene, Size, make_scene
from benchmarks.step import WARM, WHOLE, Stopwatch, ours
from benchmarks.timing import UnequalError
from models.processor import Encoded
from runtime.files import write_json, write_jsonl
from runtime.main import quiet

ALLOWED = 1e-4
"""Mean |difference| of log-probabilities: each side decodes the clips with a decoder of its own."""


def write_checkpoint(scene: Scene, folder: Path) -> None:
    """The scene's thinker as a full Omni checkpoint, which is what ms-swift loads; without talker, and with its processor."""
    scene.model.save_pretrained(folder)
    weights = {f"thinker.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = Qwen2_5OmniConfig(thinker_config=scene.model.config.to_dict(), enable_audio_output=False)
    config.architectures = ["Qwen2_5OmniModel"]
    config.save_pretrained(folder)
    stock = scene.processor.processor
    assert isinstance(stock, Qwen2_5OmniProcessor)
    stock.save_pretrained(folder)
    torch.save({}, folder / "spk_dict.pt")  # asked for, whether or not anything is spoken


def prepare(scene: Scene, folder: Path) -> None:
    """Write what `ms_swift.py` reads."""
    size = scene.size
    write_checkpoint(scene, folder / "checkpoint")
    records = [scene.record(i, size.seconds[1]) for i in range(size.steps * size.prompts)]
    rows = [
        {
            "messages": [{"role": "user", "content": f"<video>{QUESTION}"}],
            "videos": [str(scene.folder / record.uid)],
        }
        for record in records
    ]
    write_jsonl(folder / "prompts.jsonl", rows)
    plan = {
        "fps": scene.processor.settings.fps,
        "forbidden": scene.processor.forbidden_ids,
        "prompts": size.prompts,
        "group": size.group,
        "completion": size.completion,
        "steps": size.steps,
        "vocabulary": size.vocabulary,
    }
    write_json(folder / "plan.json", plan)


def check(scene: Scene, folder: Path) -> float:
    """Score what ms-swift sampled in its first step.

    Returns:
        Mean absolute difference of log-probabilities.

    Raises:
        UnequalError: when its prompts are not ours, or its log-probabilities are not.
    """
    size, first = scene.size, torch.load(folder / "first.pt")
    model = scorer(scene)
    ids_NC, logps_NC = first["completion_ids"], first["logps"]
    differences = []
    for start in range(0, len(ids_NC), size.group):
        rows = slice(start, start + size.group)
        prompts = [scene.prompt(size.seconds[1], i) for i in range(size.steps * size.prompts)]
        theirs = first["prompt_ids"][start]
        if not torch.equal(theirs, prompts[0].ids):
            raise UnequalError(f"ms-swift's prompt has {len(theirs)} tokens and is not ours of {len(prompts[0].ids)}")

        def distance(prompt: Encoded, rows: slice = rows) -> float:
            with torch.no_grad():
                return (score_shared(model, scene, prompt, ids_NC[rows]) - logps_NC[rows]).abs().mean().item()

        differences.append(min(distance(prompt) for prompt in prompts))  # which clip it was, its order decides
    worst = max(differences)
    if not worst <= ALLOWED:
        raise UnequalError(
            f"ms-swift's log-probabilities and ours lie {worst:.1e} apart on average; allowed {ALLOWED:.0e}"
        )
    return worst


def run(size: Size, peer: str, folder: Path) -> None:
    """Print a table."""
    scene = make_scene(size, folder)
    prepare(scene, folder)
    with (folder / "ms_swift.log").open("w") as log:
        script = Path(__file__).with_name("ms_swift.py")
        code = subprocess.run([peer, str(script), str(folder)], stdout=log, stderr=log, cwd=folder).returncode
    if code:
        tail = (folder / "ms_swift.log").read_text()[-3000:]
        sys.exit(f"error: ms-swift ended with {code}; the end of what it said:\n{tail}")
    difference = check(scene, folder)
    theirs = {name: median(values[WARM:]) for name, values in json.loads((folder / "steps.json").read_text()).items()}
    watch = Stopwatch(time.process_time)
    ours(scene, watch).train()
    own = watch.median(WHOLE)
    print(f"log-probabilities differ by {difference:.1e} on average; medians of {size.steps - WARM} steps\n")
    print("| GRPO step | CPU seconds | times ours |\n|---|---|---|")
    for name, seconds in (
        ("ms-swift 4.6.0", theirs["steps"]),
        ("- without its old-policy pass", theirs["steps"] - theirs["old_policy"]),
        ("- ffmpeg processes, besides", theirs["children"]),
        ("ours", own),
    ):
        print(f"| {name} | {seconds:.2f} | {seconds / own:.1f}x |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    quiet()
    with tempfile.TemporaryDirectory() as place:
        run(FULL, sys.argv[1], Path(place))
