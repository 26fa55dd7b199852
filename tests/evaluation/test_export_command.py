"""`python -m evaluation.export` on runs with all weights and with an adapter: read without our code, and described by a card."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_run import rejection, write_run
from huggingface_hub import ModelCard, metadata_load
from omegaconf import OmegaConf
from verbs import call

from evaluation.export import export_run, main
from models.engine.base import Sampling
from models.engine.hf import HFEngine
from models.load import LoraSettings, base_checkpoint, load_model, save_model
from models.processor import Processor
from runtime.errors import ConfigError, StageError
from runtime.files import write_json

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")
PLAIN = Path(__file__).with_name("plain_reader.py")
SECRET = "sk-" + "a1b2c3d4" * 4
METRIC = {"value": 0.625, "lo": 0.5, "hi": 0.75}
RESULT = {
    "n": 8,
    "interval": {"level": 0.95, "unit": "group", "units": 4},
    "metrics": {"polarity": METRIC, "corr": {"value": float("nan"), "lo": None, "hi": None}},
    "baseline": {"polarity": 0.375, "corr": 0.0},
}
ATTEMPT = {
    "command": [
        "/home/ann/undertone/pipeline.py",
        "run.name=mine",
        "task.data=/data/private/corpus",
        f"teacher.key={SECRET}",
    ],
    "git": {"revision": "abc1234", "dirty": True},
    "machine": {"system": "Linux", "cores": 2, "gpus": []},
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "inputs": {"records": {"sha256": "f00d"}},
}


def moved(model: torch.nn.Module, part: str) -> torch.nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                weight += 0.1 * torch.randn_like(weight)
    return model


@pytest.fixture(scope="module", params=["all weights", "an adapter"])
def run(request, tiny, studio_data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as a finished pipeline leaves it, whose rl/final has weights of its own."""
    adapter = request.param == "an adapter"
    cfg = replace(tiny[0], lora=LORA if adapter else None)
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, studio_data.records, studio_data.split("train")[:3], [rejection("x", "wrong verdict", "no")])
    settings = OmegaConf.load(folder / "config.yaml")
    settings.model = OmegaConf.structured(cfg)
    OmegaConf.save(settings, folder / "config.yaml")
    write_json(
        folder / "manifest.json",
        {"attempts": [ATTEMPT], "lineage": {"rl": {"used": {"mine-sft": {}}, "made": {"mine-rl": {}}}}},
    )
    before = {**RESULT, "metrics": {"polarity": {"value": 0.125, "lo": 0.0, "hi": 0.25}}}
    write_json(folder / "summary.json", {"base": before, "rl": {**RESULT, "metrics": {"polarity": METRIC}}})
    model = moved(load_model(cfg, base_checkpoint(cfg), train=True), "lora_B" if adapter else "")
    save_model(model, tiny[2], folder / "rl" / "final")
    return folder


@pytest.fixture(scope="module")
def clip(tiny, studio, studio_data, tmp_path_factory: pytest.TempPathFactory):
    """A prompt with film, sound and words, and the same as arrays on disk."""
    processor = Processor(tiny[2].processor, replace(tiny[2].settings, audio_in_video=False))
    prompt = studio.prompt(studio_data.split("test")[0], studio_data.root)
    shown = processor.clips(prompt)
    assert len(shown.sounds) == len(shown.videos) == 1
    path = tmp_path_factory.mktemp("clip") / "clip.npz"
    text = tiny[2].processor.apply_chat_template(shown.turns, tokenize=False, add_generation_prompt=True)
    text = text if isinstance(text, str) else text[0]
    np.savez(
        path,
        prompt=text,
        sound=shown.sounds[0],
        frames=shown.videos[0].numpy(),
        fps=shown.fps,
        forbidden=processor.forbidden_ids,
    )
    return processor.encode(prompt), processor, path


def plain(kind: str, folder: Path, clip: Path) -> dict[str, list[int]]:
    """What transformers alone says, in a process and a folder without our code."""
    command = [sys.executable, "-I", str(PLAIN), kind, str(folder), str(clip), "12"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_both_forms_are_read_by_transformers_alone_and_say_what_the_run_says(run, tiny, clip, tmp_path):
    encoded, processor, path = clip
    trained = load_model(replace(tiny[0], lora=None), run / "rl" / "final", train=False).eval()
    own = HFEngine(trained, processor)
    (want,) = own.sample(own.prefill([encoded]), [0], Sampling(12, 0.0))
    base = HFEngine(tiny[1], processor)
    assert base.sample(base.prefill([encoded]), [0], Sampling(12, 0.0))[0].token_ids != want.token_ids
    for form, kind in (
        ("thinker", "Qwen2_5OmniThinkerForConditionalGeneration"),
        ("omni", "Qwen2_5OmniForConditionalGeneration"),
    ):
        out = tmp_path / form
        done = call("evaluation.export", [f"checkpoint={run}", f"out={out}", f"form={form}"], tmp_path / "log", {})
        assert done.code == 0, done.text
        assert done.text.splitlines()[-1].startswith(f"{form} in {out}, ")
        assert not (out / "adapter_config.json").exists()
        said = plain(kind, out, path)
        assert said["prompt"] == encoded.ids.tolist()
        assert tuple(said["said"]) == want.token_ids, form


def test_the_card_says_what_was_done_and_hub_reads_its_head(run, tmp_path):
    main([f"checkpoint={run}", f"out={tmp_path / 'out'}", "licence=apache-2.0"])
    path = tmp_path / "out" / "README.md"
    head, text = metadata_load(path), path.read_text(encoding="utf-8")
    assert head is not None and ModelCard.load(path).data.license == "apache-2.0"  # type: ignore[attr-defined]
    assert head["pipeline_tag"] == "any-to-any" and head["library_name"] == "transformers"
    assert head["datasets"] == ["studio"] and "base_model" not in head  # the tiny model has none
    (entry,) = head["model-index"]
    (result,) = entry["results"]
    assert result["metrics"] == [{"type": "polarity", "name": "polarity", "value": 0.625}]
    assert result["dataset"] == {"type": "studio", "name": "studio", "split": "test"}
    (parsed,) = ModelCard.load(path).data.eval_results  # type: ignore[attr-defined]
    assert (parsed.metric_type, parsed.metric_value) == ("polarity", 0.625)
    for line in (
        "| train | 16 | ",
        "Chains of thought: 3 kept of 4 records asked about; rejected drafts: wrong verdict 1.",
        "SHA-256 of the records: `f00d`.",
        "| discriminate | 2.0 |",
        "| polarity | 0.625 [0.500, 0.750] | 0.125 [0.000, 0.250] | 0.375 |",
        "8 records. Brackets: 95% bootstrap intervals over 4 groups.",
        "It is no tool for\ndiagnosis",
        "It writes and does not speak",
        "    python -m pipeline run.name=mine task.data=corpus",
        "Revision `abc1234` with changes; Python 3.11.7, torch 2.13.0; Linux, 2 cores, no GPU.",
        "| rl | mine-sft | mine-rl |",
        "**Licence**: apache-2.0",
    ):
        assert line in text, line
    adapted = "adapter" in (run / "config.yaml").read_text() or (run / "rl/final/adapter_config.json").is_file()
    assert ("| weights | adapter, merged: r 4, alpha 8" in text) == adapted != ("| weights | all |" in text)


def test_the_card_names_no_place_and_no_secret(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hush-hush-hush")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["attempts"][0]["command"].append("task.note=hush-hush-hush")
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    write_json(copied / "manifest.json", manifest)
    export_run(copied, tmp_path / "out", "thinker", None, None)
    text = (tmp_path / "out" / "README.md").read_text()
    for hidden in (SECRET, "hush-hush", "/home/", "/data/private", str(tmp_path), str(run)):
        assert hidden not in text
    assert "license" not in metadata_load(tmp_path / "out" / "README.md")  # type: ignore[operator]
    assert "**Licence**: not stated; it follows from the base model and the data" in text


def test_a_run_without_evaluation_says_so(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "summary.json").unlink()
    (copied / "manifest.json").unlink()
    export_run(copied / "rl" / "final", tmp_path / "out", "thinker", None, None)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "It was not evaluated in its run." in text and "There is no manifest." in text
    assert "model-index" not in metadata_load(tmp_path / "out" / "README.md")  # type: ignore[operator]


def test_a_checkpoint_on_the_way_is_not_given_the_metrics_of_the_end(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    shutil.copytree(copied / "rl" / "final", copied / "rl" / "checkpoints" / "checkpoint-2")
    (copied / "rl" / "checkpoints" / "checkpoint-2" / "processor_config.json").unlink()  # as the trainers leave it
    export_run(copied / "rl" / "checkpoints" / "checkpoint-2", tmp_path / "out", "thinker", None, None)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "It was not evaluated in its run." in text and "0.625" not in text
    assert "| sft | max_steps" in text and "| rl | max_steps" in text
    export_run(copied, tmp_path / "end", "thinker", None, None)
    names = ("processor_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "config.json")
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "end" / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["out=x"], r"checkpoint: required and not given; write checkpoint=RUN out=FOLDER"),
        (["checkpoint=x"], r"out: required and not given"),
        (["checkpoint=x", "out=y", "talker"], r"talker: settings are key=value"),
        (["checkpoint=x", "out=y", "form=gguf"], r"form: one of \('omni', 'thinker'\); got 'gguf'; mend the command"),
        (
            ["checkpoint=x", "out=y", "form=thinker", "base=b"],
            r"base: the thinker alone takes nothing from a base; leave it",
        ),
        (["checkpoint=x", "out=y", "fom=omni"], r"unknown key 'fom' \(did you mean 'form'\?\)"),
    ],
)
def test_a_bad_command_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_what_cannot_be_exported_is_refused_before_it_is_loaded(run, tmp_path):
    with pytest.raises(StageError, match="nowhere"):
        main([f"checkpoint={tmp_path / 'nowhere'}", f"out={tmp_path / 'out'}"])
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=r"out is there already; name another folder, or remove this one"):
        main([f"checkpoint={run}", f"out={tmp_path / 'out'}"])
    with pytest.raises(ConfigError, match=r"base=.*this one says None"):
        main([f"checkpoint={run}", f"out={tmp_path / 'new'}", f"base={tmp_path}"])
    copied = tmp_path / "text"
    copied.mkdir()
    settings = OmegaConf.load(run / "config.yaml")
    settings.model.family = "text"
    OmegaConf.save(settings, copied / "config.yaml")
    (copied / "rl" / "final").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds a text model \(tiny_omni\); what is exported is an omni thinker"):
        main([f"checkpoint={copied}", f"out={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()
