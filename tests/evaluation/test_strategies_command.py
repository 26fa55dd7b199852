"""Strategies of a small model that has learnt one answer by heart: draws, second turns, kills, and the command."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_predict import SAID, learn
from test_strategies import CFG
from verbs import call

from evaluation.compare.__main__ import main as compare
from evaluation.run import EvalConfig, complete
from evaluation.strategies.draw import DRAWN, draw, second_turn
from models.engine.base import Sampling
from models.engine.hf import HFEngine
from models.load import ModelConfig, base_checkpoint, load_model, load_processor, save_model
from runtime.config import section
from runtime.errors import ConfigError
from runtime.files import read_jsonl
from runtime.main import CONF

SIZES = ["model.tiny.width=64", "model.tiny.layers=2", "model.tiny.tower_width=32", "model.perception=null"]
TASK = ["task.train=16", "task.dev=4", "task.test=8", "task.seed=0"]
EVAL = ["eval.limit=5", "eval.resamples=20", "strategies.samples=3", "strategies.batch=2", "strategies.temperature=1.5"]
REQUEST = "Check this, and say it again."


def engine_of(tiny) -> HFEngine:
    _, model, processor = tiny
    return HFEngine(model, processor)


# draws


def drawn(tiny, studio, data, folder: Path, engine=None, seed: int = 3, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    cfg = replace(CFG, **({"temperature": 1.0, "request": REQUEST} | changes))
    records = data.split("test")[:5]
    return draw(studio, engine or engine_of(tiny), records, data.root, cfg, 6, seed, folder)


def test_one_prefill_serves_all_and_the_likeliest_answers_are_those_of_an_evaluation(
    tiny, studio, studio_data, tmp_path
):
    prefilled, prefill = [], HFEngine.prefill
    engine = engine_of(tiny)
    engine.prefill = lambda prompts: prefilled.append(len(prompts)) or prefill(engine, prompts)  # type: ignore[method-assign]
    found = drawn(tiny, studio, studio_data, tmp_path, engine)
    assert prefilled == [2, 2, 1]
    records, (_, model, processor) = studio_data.split("test")[:5], tiny
    evaluated = EvalConfig("test", None, 5, 6, 0.0, [], 20, None)
    assert [d.greedy.text for d in found] == complete(studio, model, processor, records, studio_data.root, evaluated)
    assert [d.uid for d in found] == [r.uid for r in records]
    for d, r in zip(found, records, strict=True):
        prompt = processor.encode(studio.prompt(r, studio_data.root))
        turn = second_turn(processor, prompt, d.greedy.text, REQUEST)
        assert turn is not None and (d.prompt, d.turn) == (len(prompt.ids), len(turn))
        assert len(d.samples) == 4 and d.refined is not None and d.greedy.logprob is None
    assert len({s.text for d in found for s in d.samples}) > 5, "samples that are all the same would prove nothing"


def test_the_same_seed_says_the_same_and_another_one_does_not(tiny, studio, studio_data, tmp_path):
    first, again, other = (
        drawn(tiny, studio, studio_data, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again and first != other
    assert [d.greedy for d in first] == [d.greedy for d in other]


def test_batches_do_not_repeat_the_draws_of_the_first(tiny, studio, studio_data, tmp_path):
    cfg, record = replace(CFG, temperature=1.0, request=REQUEST, batch=1), studio_data.split("test")[0]
    one, other = draw(studio, engine_of(tiny), [record, record], studio_data.root, cfg, 6, 3, tmp_path)
    assert one.greedy == other.greedy and one.samples != other.samples


@pytest.mark.parametrize("left", ["whole batches", "half a batch", "a torn line"])
def test_what_was_killed_goes_on_and_ends_with_the_same_file(left, tiny, studio, studio_data, tmp_path):
    whole = drawn(tiny, studio, studio_data, tmp_path / "whole")
    lines = (tmp_path / "whole" / DRAWN).read_text().splitlines(keepends=True)
    assert len(lines) == 5
    kept = {"whole batches": lines[:2], "half a batch": lines[:3], "a torn line": [*lines[:4], lines[4][:30]]}[left]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / DRAWN).write_text("".join(kept))
    asked = []
    engine = engine_of(tiny)
    engine.prefill = lambda prompts: asked.append(len(prompts)) or HFEngine.prefill(engine, prompts)  # type: ignore[method-assign]
    assert drawn(tiny, studio, studio_data, tmp_path / "cut", engine) == whole
    assert (tmp_path / "cut" / DRAWN).read_text() == "".join(lines)
    assert asked == {"whole batches": [2, 1], "half a batch": [2, 1], "a torn line": [1]}[left]


def test_only_what_is_asked_for_is_drawn(tiny, studio, studio_data, tmp_path):
    bare = drawn(tiny, studio, studio_data, tmp_path / "a", names=["greedy", "refine"])
    assert all(d.samples == () and d.refined is not None for d in bare)
    votes = drawn(tiny, studio, studio_data, tmp_path / "b", names=["greedy", "vote"], samples=2)
    assert all(len(d.samples) == 2 and d.refined is None and d.turn == 0 for d in votes)


# the second turn


def test_a_second_turn_behind_the_cache_is_the_whole_conversation_read_anew(tiny, studio, studio_data):
    _, _, processor = tiny
    engine, record = engine_of(tiny), studio_data.split("test")[0]
    prompt = processor.encode(studio.prompt(record, studio_data.root))
    turn = second_turn(processor, prompt, f"\n{SAID} ", REQUEST)
    assert turn is not None
    said = processor.tokenizer.decode(turn)
    assert SAID in said and REQUEST in said and "\n" + SAID not in said
    behind = engine.sample(engine.prefill([prompt]), [0], Sampling(8, 0.0), [turn])[0]
    turns = [("assistant", SAID), ("user", REQUEST)]
    messages = [*prompt.messages, *({"role": r, "content": [{"type": "text", "text": t}]} for r, t in turns)]
    anew = engine.generate([processor.encode(messages)], Sampling(8, 0.0), 1, 1)[0][0]
    assert behind.token_ids == anew.token_ids
    assert behind.logprobs == pytest.approx(anew.logprobs, abs=1e-4)


def test_an_answer_that_spells_a_media_token_is_not_shown_again(tiny, studio, studio_data):
    _, _, processor = tiny
    prompt = processor.encode(studio.prompt(studio_data.split("test")[0], studio_data.root))
    assert second_turn(processor, prompt, "I hear <|AUDIO|>", REQUEST) is None


def test_a_chat_template_that_rewrites_the_first_turn_is_refused():
    def encode(messages: Sequence[dict]) -> SimpleNamespace:
        return SimpleNamespace(ids=torch.tensor([9, 2, 3, 4]))

    prompt = SimpleNamespace(ids=torch.tensor([1, 2, 3]), messages=[])
    with pytest.raises(
        ConfigError, match=r"strategies\.names: refine reads .* template changes that .* leave refine out"
    ):
        second_turn(SimpleNamespace(encode=encode), prompt, "so", REQUEST)  # type: ignore[arg-type]


# the command


@pytest.fixture(scope="module")
def run(studio, studio_data, cache: Path, tmp_path_factory) -> Path:
    """A run folder whose checkpoint says SAID, mostly."""
    folder = tmp_path_factory.mktemp("run")
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("pipeline", [f"run.dir={folder}", *SIZES])
    model_cfg = section(cfg, "model", ModelConfig)
    base = base_checkpoint(model_cfg)
    processor, model = load_processor(model_cfg, base), load_model(model_cfg, base, train=True)
    torch.manual_seed(0)
    learn(model, processor, studio.prompt(studio_data.split("test")[0], studio_data.root), SAID, steps=100)
    save_model(model, processor, folder / "sft" / "final")
    return folder


def command(run: Path, log: Path, *more: str):
    environment = {"UNDERTONE_CACHE": str(run.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return call("evaluation.strategies", [f"hydra.run.dir={run}", *SIZES, *TASK, *EVAL, *more], log, environment)


@pytest.mark.slow
def test_the_command_prints_one_table_and_is_done_once(run: Path, tmp_path: Path):
    first = command(run, tmp_path / "log")
    assert first.code == 0, first.text
    folder = run / "eval" / "sft-strategies"
    result = json.loads((folder / "strategies.json").read_text())
    assert list(result["strategies"]) == ["greedy", "vote", "rerank", "refine"] and result["items"] == 5
    assert len(result["differences"]) == 3 * len(result["strategies"]["greedy"]["metrics"])
    assert [p["samples"] for p in result["curves"]["vote"]] == [1, 2, 3]
    for words in ("mae ↓", "rerank of 3 by logprob", "gain / 100 tokens", "ECE (equal width)", "strategies.html"):
        assert words in first.text, words
    drawn = read_jsonl(folder / DRAWN)
    assert len(drawn) == 5 and any(row["greedy"]["text"] == SAID for row in drawn)
    # each strategy is an evaluation as any other, and can be an arm
    for strategy, calls in (("greedy", 1), ("vote", 3), ("rerank", 3), ("refine", 2)):
        stage = json.loads((run / "eval" / f"sft-{strategy}" / "stage.json").read_text())["result"]
        assert stage["n"] == 5 and stage["cost"]["calls"] == calls
    places = [f"{name}={run / 'eval' / f'sft-{name}'}" for name in ("greedy", "vote")]
    compared = compare([*places, "--metrics", "mae", "--resamples", "20"])
    difference = next(d for d in result["differences"] if (d["strategy"], d["metric"]) == ("vote", "mae"))
    assert f"{difference['value']:+.3f} [{difference['lo']:+.3f}, {difference['hi']:+.3f}]" in compared

    before = (folder / "strategies.json").read_bytes()
    again = command(run, tmp_path / "log")
    assert again.code == 0 and again.text.count("done before, skipped") == 6  # clips, draws and four strategies
    assert (folder / "strategies.json").read_bytes() == before

    # another scorer decides anew, and nothing is drawn again
    other = command(run, tmp_path / "log", "strategies.scorer=evidence", "strategies.metrics=[polarity]")
    assert other.code == 0, other.text
    assert "sft-strategies: done before, skipped" in other.text and "rerank of 3 by evidence" in other.text
    assert "mae" not in other.text and "polarity ↑" in other.text

    # other draws are another experiment
    refused = command(run, tmp_path / "log", "strategies.samples=4")
    assert refused.code == 1 and "strategies.samples: was 3, now 4" in refused.text and "Traceback" not in refused.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategies.metrics=[polarty]", r"error: strategies.metrics: some of ['acc2_has0',"),
        ("strategies.scorer=explanation", "error: strategies.scorer: explanation needs what reads explanations"),
        (
            "eval.limit=1",
            "error: strategies: 1 clips to ask about, 2 or more are needed; mend eval.split or eval.limit",
        ),
        ("strategies.names=[vote]", "error: strategies.names: greedy and some of"),
        ("+strategies.sample=3", "error: strategies: unknown key 'sample' (did you mean 'samples'?)"),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_asked(setting, message, run, tmp_path):
    shutil.copytree(run / "sft", tmp_path / "run" / "sft")
    outcome = command(tmp_path / "run", tmp_path / "log", setting)
    assert outcome.code == 1 and message in outcome.text and "Traceback" not in outcome.text
    assert not (tmp_path / "run" / "eval").exists()
