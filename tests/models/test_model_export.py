"""A thinker on its way out: alone, into a full checkpoint and back, and what is refused on the way."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from full_omni import PARTS, write_full
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from models.engine.weights import policy_weights
from models.export import EMBEDDING, HEAD, check_whole, export
from models.load import LoraSettings, base_checkpoint, load_model, load_processor, save_model
from models.omni_base import open_base
from models.processor import MediaSettings, Processor
from models.shards import Shards
from runtime.errors import ConfigError, StageError

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")
Thinker, Omni = Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniForConditionalGeneration
LARGE = 1 << 40


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds, each name in one file."""
    files = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
    assert max(Counter(name for file in files for name in file).values()) == 1
    return {name: value for file in files for name, value in file.items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def trained(fresh):
    """After a step in every weight."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return fresh


@pytest.fixture
def adapted(tiny):
    """With an adapter that no longer leaves the model as it was."""
    model = load_model(replace(tiny[0], lora=LORA), base_checkpoint(tiny[0]), train=True)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def full(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full checkpoint of the tiny model's size, in several files."""
    folder = write_full(tmp_path_factory.mktemp("full"), tiny[1])
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def logits(tiny, studio, studio_data):
    """Of a prompt with film, sound and text."""
    prompt = studio.prompt(studio_data.records[0], studio_data.root)
    batch = tiny[2].collate([tiny[2].encode(prompt)])

    @torch.no_grad()
    def run(model: torch.nn.Module) -> torch.Tensor:
        return model.eval()(**batch).logits

    return run


# ---- round trips


def test_a_thinker_alone_is_read_as_it_was(trained, tiny, logits, tmp_path):
    export(trained, tiny[2], tmp_path / "out", "thinker", None, LARGE)
    again = Thinker.from_pretrained(tmp_path / "out")
    assert same(again.state_dict(), trained.state_dict()) and torch.equal(logits(again), logits(trained))
    assert not [name for name in tensors(tmp_path / "out") if name.startswith("thinker.")]


@pytest.mark.parametrize("voiced", [True, False])
def test_into_a_full_checkpoint_and_back_no_bit_changes(trained, tiny, full, logits, tmp_path, voiced):
    export(trained, tiny[2], tmp_path / "out", "omni", open_base(str(full)) if voiced else None, LARGE)
    whole = Omni.from_pretrained(tmp_path / "out")
    assert whole.has_talker == voiced and same(whole.thinker.state_dict(), trained.state_dict())
    cfg = replace(tiny[0], source=str(tmp_path / "out"), tiny=None)
    back = load_model(cfg, base_checkpoint(cfg), train=False)  # as a run that starts from it
    assert same(back.state_dict(), trained.state_dict()) and torch.equal(logits(back), logits(trained))
    assert back.config.vision_start_token_id == trained.config.vision_start_token_id  # type: ignore[union-attr]
    processor, base = load_processor(cfg, base_checkpoint(cfg)), tiny[2]
    assert processor.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    export(back, processor, tmp_path / "alone", "thinker", None, LARGE)
    export(trained, tiny[2], tmp_path / "first", "thinker", None, LARGE)
    assert same(tensors(tmp_path / "alone"), tensors(tmp_path / "first"))


def test_what_is_not_the_thinker_is_copied_bit_by_bit_from_a_base_in_many_files_into_many(
    trained, tiny, full, tmp_path
):
    out = tmp_path / "out"
    export(trained, tiny[2], out, "omni", open_base(str(full)), 300_000)
    old, new = tensors(full), tensors(out)
    assert new.keys() == old.keys() and {p for p in PARTS for n in new if n.startswith(p)} == set(PARTS)
    for name, value in new.items():
        assert torch.equal(value, old[name]) != name.startswith("thinker."), name
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == new.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in new.values())
    files = {name: load_file(out / name) for name in set(index["weight_map"].values())}
    assert all(name in files[file] for name, file in index["weight_map"].items()) and len(files) > 3
    assert all(len(file) == 1 or sum(v.nbytes for v in file.values()) <= 300_000 for file in files.values())
    assert (out / "spk_dict.pt").read_bytes() == (full / "spk_dict.pt").read_bytes()
    settings, base = (json.loads((folder / "config.json").read_text()) for folder in (out, full))
    assert all(settings[part] == base[part] for part in ("talker_config", "token2wav_config"))
    assert settings["architectures"] == base["architectures"] or settings["architectures"] == ["Qwen2_5OmniModel"]


def test_an_adapter_is_merged_and_says_what_it_said(adapted, tiny, logits, tmp_path):
    before = logits(adapted)
    export(adapted, tiny[2], tmp_path / "out", "thinker", None, LARGE)
    merged = Thinker.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(merged), before, atol=1e-5)
    assert not torch.allclose(before, logits(tiny[1]), atol=1e-2)
    plain = tiny[1].state_dict()
    moved = {
        name.rsplit(".", 2)[1] for name, value in merged.state_dict().items() if not torch.equal(value, plain[name])
    }
    assert moved == {"q_proj", "v_proj"}
    assert torch.equal(logits(adapted), before)  # the model itself is as it was


def test_a_model_in_bfloat16_is_exported_in_it_and_its_adapter_is_rounded_once(tiny, tmp_path):
    cfg = replace(tiny[0], lora=LORA, dtype="bfloat16")
    model = load_model(cfg, base_checkpoint(cfg), train=True)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    export(model, tiny[2], tmp_path / "out", "omni", None, LARGE)
    found = tensors(tmp_path / "out")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    layer = model.get_submodule("base_model.model.model.language_model.layers.0.self_attn.q_proj")
    exact = layer.base_layer.weight.double()  # type: ignore[union-attr]
    exact = exact + 2.0 * layer.lora_B.default.weight.double() @ layer.lora_A.default.weight.double()  # type: ignore
    got = found["thinker.model.layers.0.self_attn.q_proj.weight"]
    assert (got == exact.bfloat16()).float().mean() > 0.99  # a sum in float32 lies beside a tie now and then
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["dtype"] == settings["thinker_config"]["dtype"] == "bfloat16"
    assert Omni.from_pretrained(tmp_path / "out").thinker.dtype == torch.bfloat16


def test_a_head_that_is_the_embedding_is_written_where_the_base_has_one(fresh, tiny, full, tmp_path):
    fresh.lm_head.weight = fresh.model.language_model.embed_tokens.weight
    export(fresh, tiny[2], tmp_path / "out", "omni", open_base(str(full)), LARGE)
    found = tensors(tmp_path / "out")
    assert torch.equal(found[HEAD], found[EMBEDDING]) and found.keys() == tensors(full).keys()


def test_what_belongs_to_the_weights_comes_along(trained, tiny, tmp_path):
    trained.generation_config.eos_token_id = [5, 7]
    size = {"shortest_edge": 3136, "longest_edge": 50176}
    processor = Processor(tiny[2].processor, MediaSettings(True, 3.0, 12, size))
    export(trained, processor, tmp_path / "out", "thinker", None, LARGE)
    again = AutoProcessor.from_pretrained(tmp_path / "out")
    assert again.chat_template == tiny[2].processor.chat_template
    assert dict(again.video_processor.size) == size
    assert (again.video_processor.fps, again.video_processor.max_frames) == (3.0, 12)
    assert Thinker.from_pretrained(tmp_path / "out").generation_config.eos_token_id == [5, 7]
    for path in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text() and "_name_or_path" not in path.read_text().replace(
            '"_name_or_path": ""', ""
        )


def test_files_of_weights_are_named_as_transformers_names_them(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    for folder, limit in ((one, 100), (many, 16)):
        folder.mkdir()
        shards = Shards(folder, limit)
        for i in range(3):
            shards.add(f"t{i}", torch.full((2 + 4 * (i == 1),), float(i)))
        shards.close()
    assert [p.name for p in one.iterdir()] == ["model.safetensors"]
    assert sorted(p.name for p in many.iterdir()) == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),  # t1 is larger than a file may be
        "model.safetensors.index.json",
    ]
    assert same(tensors(one), tensors(many))


# ---- every tensor is accounted for


def test_names_are_those_of_the_model_as_it_is_published():
    """The config class's defaults are those of Qwen2.5-Omni-7B; only names and shapes are made, no weights."""
    with torch.device("meta"):
        thinker = Omni(Qwen2_5OmniConfig(enable_audio_output=False)).thinker
    shapes = {name: tuple(value.shape) for name, value in policy_weights(thinker)}
    assert shapes[HEAD] == shapes[EMBEDDING] == (152064, 3584)
    places = Counter(".".join(name.split(".")[: 3 if name.startswith("thinker.model.") else 2]) for name in shapes)
    assert set(places) == {
        *("thinker.lm_head", "thinker.audio_tower", "thinker.visual"),
        *("thinker.model.embed_tokens", "thinker.model.layers", "thinker.model.norm"),
    }
    assert places["thinker.model.layers"] == 28 * 12 and places["thinker.lm_head"] == 1


def altered(full: Path, folder: Path, change) -> Path:
    """A copy of a full checkpoint whose last file is as `change` makes it."""
    shutil.copytree(full, folder)
    path = sorted(folder.glob("model-*.safetensors"))[0]
    held = load_file(path)
    name = next(name for name in sorted(held) if name.startswith("thinker."))
    change(held, name)
    save_file(held, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda held, name: held.pop(name),
            r"base=.*: tensors 1 unexpected \(thinker\.[\w.]+\); name the checkpoint, of the same",
        ),
        (
            lambda held, name: held.update({"thinker.extra": torch.zeros(1)}),
            r"base=.*: tensors 1 missing \(thinker\.extra\); name the checkpoint",
        ),
        (
            lambda held, name: held.update({name: torch.zeros(3)}),
            r"base=.*: tensors 1 of another shape \(thinker\.[\w.]+ \[[\d, ]+\] for \[3\]\); name the checkpoint",
        ),
    ],
)
def test_a_base_of_other_tensors_is_refused_and_they_are_named(fresh, tiny, full, tmp_path, change, message):
    base = open_base(str(altered(full, tmp_path / "base", change)))
    with pytest.raises(StageError, match=message):
        export(fresh, tiny[2], tmp_path / "out", "omni", base, LARGE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_a_base_of_another_size_is_refused(tiny, full, tmp_path):
    cfg = replace(tiny[0], tiny=replace(tiny[0].tiny, width=128, layers=1))
    other = load_model(cfg, base_checkpoint(cfg), train=False)
    with pytest.raises(
        StageError, match=r"tensors 12 missing \(thinker.model.layers.1.* of another shape \(.*, \.\.\.\); name"
    ):
        export(other, tiny[2], tmp_path / "out", "omni", open_base(str(full)), LARGE)


def test_what_is_no_full_checkpoint_is_refused_as_a_base(tiny, tmp_path):
    thinker = base_checkpoint(tiny[0])
    with pytest.raises(
        ConfigError, match=r"says model_type qwen2_5_omni in its config.json, this one says 'qwen2_5_omni_thinker'"
    ):
        open_base(str(thinker))
    with pytest.raises(ConfigError, match=r"this one says None; name the checkpoint that the thinker was taken from"):
        open_base(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_omni"}')
    with pytest.raises(ConfigError, match=r"holds no .safetensors file; download it whole"):
        open_base(str(tmp_path))
    with pytest.raises(ConfigError, match=r"base=nobody/nothing: no such folder, and not to be had from the hub"):
        open_base("nobody/nothing")


def test_a_checkpoint_that_was_cut_off_is_noticed(trained, adapted, tiny, tmp_path):
    save_model(trained, tiny[2], tmp_path / "whole")
    check_whole(tmp_path / "whole", trained)
    held = load_file(tmp_path / "whole" / "model.safetensors")
    gone = sorted(held)[3]
    del held[gone]
    save_file(held, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    loaded = load_model(tiny[0], tmp_path / "whole", train=False)  # transformers warns, and fills in random numbers
    with pytest.raises(StageError, match=rf"whole: tensors 1 missing \(thinker\.{gone}\); the checkpoint was cut off"):
        check_whole(tmp_path / "whole", loaded)
    save_model(adapted, tiny[2], tmp_path / "adapter")
    check_whole(tmp_path / "adapter", adapted)
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    held["stray"] = held.pop(sorted(held)[0])
    save_file(held, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(
        StageError, match=r"adapter: tensors 1 missing \(.*lora_A.weight\), 1 unexpected \(stray\); the"
    ):
        check_whole(tmp_path / "adapter", adapted)


# ---- whole or not at all


def test_an_export_that_fails_leaves_nothing_and_replaces_nothing(fresh, tiny, tmp_path):
    def fail(beside: Path) -> None:
        assert (beside / "model.safetensors").is_file()
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        export(fresh, tiny[2], tmp_path / "out", "thinker", None, LARGE, fail)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=r"out is there already; name another folder, or remove this one"):
        export(fresh, tiny[2], tmp_path / "out", "thinker", None, LARGE)
    assert list((tmp_path / "out").iterdir()) == []


def test_too_little_space_is_noticed_before_anything_is_written(fresh, tiny, full, tmp_path, monkeypatch):
    thinker = sum(weight.nbytes for weight in fresh.parameters())
    monkeypatch.setattr("models.export.shutil.disk_usage", lambda folder: SimpleNamespace(free=thinker))
    with pytest.raises(ConfigError, match=r"out needs 0.0 GB, and 0.0 GB are free; make room"):
        export(fresh, tiny[2], tmp_path / "out", "omni", open_base(str(full)), LARGE)
    assert list(tmp_path.iterdir()) == []
    export(fresh, tiny[2], tmp_path / "out", "thinker", None, LARGE)  # this one has room


def test_a_text_model_is_no_thinker(llama, tmp_path):
    with pytest.raises(
        ConfigError, match=r"checkpoint: a LlamaForCausalLM; what is exported is the thinker of a Qwen2.5"
    ):
        export(llama[0], llama[1], tmp_path / "out", "thinker", None, LARGE)
