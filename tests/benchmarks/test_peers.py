"""What another trainer is given, and how what it answers is checked before it is timed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from benchmarks.group import score_shared, scorer
from benchmarks.peers.__main__ import check, prepare
from benchmarks.scene import QUESTION, SMOKE, Scene, make_scene
from benchmarks.timing import UnequalError


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Prepared in its own folder."""
    made = make_scene(dataclasses.replace(SMOKE, steps=1), tmp_path)
    prepare(made, tmp_path)
    return made


def answer(scene: Scene, **changes: torch.Tensor) -> Path:
    """What a trainer without a fault would write of its first step: the second prompt's group, then the first one's."""
    size, model = scene.size, scorer(scene)
    ids = scene.completions(2 * size.group)
    prompts = [scene.prompt(size.seconds[1], i) for i in (1, 0)]
    with torch.no_grad():
        logps = [score_shared(model, scene, p, part) for p, part in zip(prompts, ids.chunk(2), strict=True)]
    prompt_ids = torch.stack([p.ids for p in prompts]).repeat_interleave(size.group, 0)
    first = {"prompt_ids": prompt_ids, "completion_ids": ids, "logps": torch.cat(logps)}
    torch.save(first | changes, scene.folder / "first.pt")
    return scene.folder


def test_the_checkpoint_is_the_scenes_model_as_a_part_of_the_full_one(scene: Scene) -> None:
    folder = scene.folder / "checkpoint"
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder).state_dict()
    wanted = scene.model.state_dict()
    assert loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name]) for name in wanted)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2_5OmniModel"]
    assert AutoProcessor.from_pretrained(folder).tokenizer.get_vocab() == scene.processor.tokenizer.get_vocab()


def test_every_prompt_of_every_step_is_written(scene: Scene) -> None:
    rows = [json.loads(line) for line in (scene.folder / "prompts.jsonl").read_text().splitlines()]
    assert len({row["videos"][0] for row in rows}) == len(rows) == scene.size.steps * scene.size.prompts
    assert all(Path(row["videos"][0]).is_file() for row in rows)
    assert {row["messages"][0]["content"] for row in rows} == {f"<video>{QUESTION}"}
    plan = json.loads((scene.folder / "plan.json").read_text())
    assert plan["forbidden"] == scene.processor.forbidden_ids
    assert set(scene.processor.eos_ids) < set(plan["forbidden"])


def test_a_peer_that_saw_and_heard_the_same_passes_whatever_its_order(scene: Scene) -> None:
    assert check(scene, answer(scene)) < 1e-6


def test_a_peer_with_another_prompt_or_other_log_probabilities_is_not_timed(scene: Scene) -> None:
    folder = answer(scene)
    first = torch.load(folder / "first.pt")
    answer(scene, prompt_ids=first["prompt_ids"][:, 1:])
    with pytest.raises(UnequalError, match=r"ms-swift's prompt has \d+ tokens and is not ours of \d+"):
        check(scene, folder)
    answer(scene, logps=first["logps"] + 0.01)
    with pytest.raises(UnequalError, match=r"ms-swift's log-probabilities and ours lie 1\.0e-02 apart on average"):
        check(scene, folder)
