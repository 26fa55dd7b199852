"""Which tensors an engine with a model of its own is sent, and under which names."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from models.engine.weights import checksum, policy_weights
from models.load import base_checkpoint, save_for_engine, save_model


def test_a_thinker_is_sent_as_a_full_checkpoint_holds_it(fresh, tiny, tmp_path):
    save_model(fresh, tiny[2], tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    sent = dict(policy_weights(fresh))
    assert set(sent) == {f"thinker.{name}" for name in saved}
    assert all(torch.equal(value, sent[f"thinker.{name}"]) for name, value in saved.items())


def test_an_adapter_is_merged_into_what_is_sent_and_into_nothing_else(fresh):
    before = {name: value.clone() for name, value in policy_weights(fresh)}
    adapted = get_peft_model(fresh, LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    sent = {name: value.clone() for name, value in policy_weights(adapted)}
    held = adapted.get_base_model().model.language_model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(held, before["thinker.model.layers.0.self_attn.q_proj.weight"])
    assert list(sent) == list(before)
    changed = {name.rsplit(".", 2)[1] for name in before if not torch.equal(sent[name], before[name])}
    assert changed == {"q_proj", "v_proj"}
    merged = dict(policy_weights(adapted.merge_and_unload()))
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in sent.items())


def test_a_merged_weight_keeps_its_type(fresh):
    adapted = get_peft_model(fresh.to(torch.bfloat16), LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj"))
    assert {weight.dtype for name, weight in adapted.named_parameters() if "lora_" in name} == {torch.float32}
    assert {value.dtype for _, value in policy_weights(adapted)} == {torch.bfloat16}


def test_a_text_model_is_sent_under_its_own_names():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes, tie_word_embeddings=True))
    assert dict(policy_weights(model)).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checksums_of_parts_add_up_and_one_bit_changes_them(dtype):
    whole = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert checksum(whole) == checksum(whole[:2]) + checksum(whole[2:]) == checksum(whole.T)
    bits = whole.clone()
    bits.view(torch.int16)[0, 0] ^= 1
    assert abs(checksum(bits) - checksum(whole)) == 1
    assert checksum(torch.tensor([1, -3], dtype=torch.int16)) == -2


def test_vllm_is_given_a_full_config_without_weights(tiny, tmp_path):
    folder = tmp_path / "engine"
    for _ in range(2):  # the second one replaces the first
        save_for_engine(base_checkpoint(tiny[0]), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5OmniModel"] and config["model_type"] == "qwen2_5_omni"
    assert config["thinker_config"]["vision_start_token_id"] == tiny[1].config.vision_start_token_id
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.safetensors")) and [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_vllm_is_given_the_config_below_an_adapter(fresh, tiny, tmp_path):
    fresh.name_or_path = str(base_checkpoint(tiny[0]))
    adapted = get_peft_model(fresh, LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj"))
    save_model(adapted, tiny[2], tmp_path / "adapter")
    save_for_engine(tmp_path / "adapter", tmp_path / "engine")
    assert json.loads((tmp_path / "engine" / "config.json").read_text())["model_type"] == "qwen2_5_omni"
