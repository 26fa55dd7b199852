"""The tiny model is the real class, of the stated size, and survives saving."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoProcessor, Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from models import tiny as tiny_omni
from models.load import ModelConfig, base_checkpoint, load_model, load_processor, save_model
from models.processor import Processor
from runtime.config import section

ROOT = Path(__file__).parents[2]


@pytest.fixture
def built(tiny) -> tuple[ModelConfig, torch.nn.Module, Processor]:
    return tiny


def test_model_and_processor_are_the_real_classes(built) -> None:
    _, model, processor = built
    assert type(model) is Qwen2_5OmniThinkerForConditionalGeneration
    assert type(processor.processor) is Qwen2_5OmniProcessor


def test_the_configured_sizes_are_between_one_and_ten_million_parameters() -> None:
    cfg = OmegaConf.create({"model": OmegaConf.load(ROOT / "conf" / "model" / "tiny_omni.yaml")})
    shape = section(cfg, "model", ModelConfig).tiny
    assert shape is not None
    with torch.device("meta"):
        model = tiny_omni.build_model(tiny_omni.build_tokenizer(tiny_omni.CORPUS), shape, seed=0)
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 10_000_000


def test_saving_and_loading_is_exact(built, tmp_path: Path, studio, studio_data) -> None:
    cfg, model, processor = built
    save_model(model, processor, tmp_path / "saved")
    again, its_processor = load_model(cfg, tmp_path / "saved", train=False), load_processor(cfg, tmp_path / "saved")
    weights, loaded = model.state_dict(), again.state_dict()
    assert weights.keys() == loaded.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert its_processor.processor.chat_template == processor.processor.chat_template == tiny_omni.CHAT_TEMPLATE
    assert its_processor.tokenizer.padding_side == "left" and its_processor.forbidden_ids == processor.forbidden_ids
    messages = studio.prompt(studio_data.records[0], studio_data.root)
    batches = [p.collate([p.encode(messages)]) for p in (processor, its_processor)]
    for name, value in batches[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(batches[1][name])), name
    with torch.no_grad():
        assert torch.equal(model(**batches[0]).logits, again(**batches[1]).logits)


def test_a_folder_that_is_saved_to_again_holds_only_the_new_model(built, tmp_path: Path) -> None:
    _, model, processor = built
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "adapter_config.json").write_text("{}")
    save_model(model, processor, tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]  # nothing half-written beside it


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(built, cache: Path) -> None:
    cfg, model, processor = built
    assert cfg.tiny is not None
    same, other = (tiny_omni.build_model(processor.tokenizer, cfg.tiny, seed) for seed in (0, 1))
    name = "lm_head.weight"
    assert torch.equal(same.state_dict()[name], model.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], model.state_dict()[name])


def test_the_checkpoint_is_built_once_and_another_seed_gets_a_folder_of_its_own(built, cache: Path) -> None:
    cfg, _, _ = built
    base = Path(base_checkpoint(cfg))
    before = {path: path.stat().st_mtime_ns for path in base.iterdir()}
    assert base_checkpoint(cfg) == base and base.parent == cache
    assert {path: path.stat().st_mtime_ns for path in base.iterdir()} == before
    assert base_checkpoint(replace(cfg, seed=7)) != base


def test_auto_processor_finds_the_checkpoint(built) -> None:
    assert isinstance(AutoProcessor.from_pretrained(base_checkpoint(built[0])), Qwen2_5OmniProcessor)


def test_every_media_token_is_one_forbidden_token_and_known_to_the_model(built) -> None:
    _, model, processor = built
    ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in tiny_omni.TOKENS.values()]
    assert sorted(processor.forbidden_ids) == sorted(ids) and len(set(ids)) == 7
    config = model.config
    assert isinstance(model, Qwen2_5OmniThinkerForConditionalGeneration)
    named = {
        "<|AUDIO|>": config.audio_token_id,
        "<|IMAGE|>": config.image_token_id,
        "<|VIDEO|>": config.video_token_id,
        "<|audio_bos|>": config.audio_start_token_id,
        "<|audio_eos|>": config.audio_end_token_id,
        "<|vision_bos|>": config.vision_start_token_id,
        "<|vision_eos|>": config.vision_end_token_id,
    }
    assert {token: processor.tokenizer.convert_tokens_to_ids(token) for token in named} == named


def test_words_of_the_grammar_are_single_tokens_and_any_text_survives(built) -> None:
    processor = built[2]
    for word in ("positive", "neutral", "negative", "discriminate", "calibrate", "answer", " voice", " face"):
        assert len(processor.text_ids(word)) == 1, word
    for text in ("<answer>-2.2</answer>", "naïve 😀 日本 \t\n tabs", "I'm $5"):
        assert processor.decode(processor.text_ids(text)) == text
    assert len(processor.text_ids("-1.4")) == 4  # digits one by one
