"""vLLM inside the process against the engine that samples with the model itself."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from vllm_cases import EXACT, GREEDY, HINT, LONGER_HINT, QUESTIONS, SETTINGS, VIEWS, difference, scored, tokens

from models.engine.base import Sampling
from models.engine.config import EngineConfig, VLLMSettings, make_engine
from models.engine.hf import HFEngine
from models.processor import MediaSettings, Processor
from models.tiny import CORPUS, build_tokenizer
from runtime.errors import ConfigError, MediaError, ParityError


@pytest.mark.parametrize("kind", VIEWS)
def test_greedy_completions_are_those_of_the_model_itself_with_and_without_a_hint(
    engine, tiny, prompts_of, processor_of, kind
):
    prompts, own = prompts_of(kind), HFEngine(tiny[1], processor_of(kind))
    prompt_of, prefixes = [0, 1, 0, 1, 0], [(), (), HINT, LONGER_HINT, ()]
    expected = own.sample(own.prefill(prompts), prompt_of, GREEDY, prefixes)
    got = engine.sample(engine.prefill(prompts), prompt_of, GREEDY, prefixes)
    assert tokens(got) == tokens(expected) and len({c.token_ids for c in got}) > 2
    assert [c.finished for c in got] == [c.finished for c in expected]
    assert difference(got, expected) < EXACT
    assert engine.fingerprints == own.fingerprints


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_recorded_log_probabilities_are_those_of_a_scoring_pass(
    engine, tiny, prompts_of, processor_of, kind, temperature
):
    prompts = prompts_of(kind)
    prompt_of, prefixes = [0, 1, 0, 1], [(), (), HINT, LONGER_HINT]
    torch.manual_seed(0)
    done = engine.sample(engine.prefill(prompts), prompt_of, Sampling(10, temperature), prefixes)
    for b, prefix, said in zip(prompt_of, prefixes, done, strict=True):
        expected = scored(tiny[1], processor_of(kind), prompts[b], prefix, said.token_ids, temperature)
        assert torch.tensor(said.logprobs) == pytest.approx(expected, abs=EXACT)


def test_prompts_of_all_kinds_can_be_sampled_together(engine, prompts_of):
    alone, prompts = [], []
    for kind in VIEWS:
        prompts += prompts_of(kind)
        alone += engine.sample(engine.prefill(prompts_of(kind)), [0, 1], GREEDY)
    together = engine.sample(engine.prefill(prompts), list(range(len(prompts))), GREEDY)
    assert tokens(together) == tokens(alone)


def test_siblings_differ_and_the_same_seed_gives_them_again(engine, prompts_of):
    state, draw = engine.prefill(prompts_of("audio")), Sampling(8, 1.0)

    def group(seed: int) -> list[tuple[int, ...]]:
        torch.manual_seed(seed)
        return tokens(engine.sample(state, [0] * 8, draw))

    first = group(0)
    assert len(set(first)) == 8 and group(0) == first and group(1) != first


def test_generate_is_a_group_for_each_prompt(engine, prompts_of):
    prompts = [*prompts_of("audio"), *prompts_of("text")]
    groups = engine.generate(prompts, GREEDY, 2, batch=3)
    assert [len(group) for group in groups] == [2] * 4
    assert [group[0] for group in groups] == engine.sample(engine.prefill(prompts), [0, 1, 2, 3], GREEDY)


def test_a_text_model_can_be_sampled_too(tiny, tmp_path):
    tokenizer = build_tokenizer(CORPUS)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}\n{% endfor %}> "
    processor = Processor(tokenizer, MediaSettings(False, 2.0, 2, {}))
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, **heads}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=None, eos_token_id=processor.eos_ids[0])
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    section, cfg = EngineConfig("vllm", VLLMSettings(**SETTINGS)), replace(tiny[0], family="text")
    engine, own = make_engine(section, cfg, tmp_path, tmp_path, 0, model, processor), HFEngine(model.eval(), processor)
    engine.follow(model, 0)
    prompts = [processor.encode([{"role": "user", "content": [{"type": "text", "text": text}]}]) for text in QUESTIONS]
    for temperature in (0.0, 0.7):
        got = engine.sample(engine.prefill(prompts), [0, 1, 0], Sampling(9, temperature), [(), HINT, HINT])
        if not temperature:
            expected = own.sample(own.prefill(prompts), [0, 1, 0], Sampling(9, 0.0), [(), HINT, HINT])
            assert tokens(got) == tokens(expected) and difference(got, expected) < EXACT
    rows = zip([0, 1, 0], [(), HINT, HINT], got, strict=True)
    for b, prefix, said in rows:
        expected = scored(model, processor, prompts[b], prefix, said.token_ids, 0.7)
        assert torch.tensor(said.logprobs) == pytest.approx(expected, abs=EXACT)


# Forbidden and final tokens


@pytest.fixture
def obtrusive(fresh, tiny):
    """A model that would say media tokens half of the time."""
    head = fresh.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        head.weight[tiny[2].forbidden_ids] *= 60
    return fresh


def test_media_tokens_are_never_said_and_the_ban_is_undone_in_the_log_probabilities(
    engine, obtrusive, tiny, prompts_of
):
    engine.follow(obtrusive, 1)
    (prompt, _), draw = prompts_of("audio"), Sampling(16, 1.7)
    torch.manual_seed(0)
    done = engine.sample(engine.prefill([prompt]), [0] * 24, draw)
    forbidden = set(tiny[2].forbidden_ids)
    assert not forbidden & {token for c in done for token in c.token_ids}
    batch = tiny[2].collate([prompt])
    with torch.no_grad():
        wanted = (obtrusive(**batch).logits[0, -1] / 1.7).softmax(-1)[sorted(forbidden)].sum()
    assert wanted > 0.3  # there is something to ban
    for said in done:
        expected = scored(obtrusive, tiny[2], prompt, (), said.token_ids, 1.7)
        assert torch.tensor(said.logprobs) == pytest.approx(expected, rel=2e-6)  # they are large: -10 and below


def test_an_end_token_ends_a_completion_and_belongs_to_it(engine, tiny, prompts_of, processor_of):
    prompts, processor = prompts_of("audio"), processor_of("audio")
    plain = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    processor.eos_ids = [plain[0].token_ids[4], plain[1].token_ids[-1]]
    own, there = HFEngine(tiny[1], processor), copy.copy(engine)
    there.processor = processor
    expected = own.sample(own.prefill(prompts), [0, 1], GREEDY)
    got = there.sample(there.prefill(prompts), [0, 1], GREEDY)
    assert tokens(got) == tokens(expected)
    assert [c.finished for c in got] == [c.finished for c in expected]
    assert got[0].finished and len(got[0].token_ids) <= 5 and got[0].token_ids[-1] in processor.eos_ids


def test_what_does_not_fit_is_refused(engine, prompts_of):
    prompt, _ = prompts_of("text")
    state, length = engine.prefill([prompt]), len(prompt.ids)
    room = SETTINGS["max_model_len"] - length
    done = engine.sample(state, [0], Sampling(room - 3, 0.0), [HINT])
    assert len(done[0].token_ids) == room - 3 or done[0].finished
    message = rf"max_model_len=512: a prompt of {length + 3} tokens \(with its hint\) and {room - 2} new ones do not fit; raise"
    with pytest.raises(ConfigError, match=message):
        engine.sample(state, [0], Sampling(room - 2, 0.0), [HINT])


def test_media_that_do_not_fill_their_placeholders_are_refused(engine, tiny, prompts_of):
    prompt, _ = prompts_of("audio")
    heard = int((prompt.ids == tiny[1].config.audio_token_index).sum())
    torn = replace(prompt, ids=prompt.ids[prompt.ids != tiny[1].config.audio_token_index])
    with pytest.raises(MediaError, match=rf"placeholders for {{}} tokens, its media make {{'audio': \[{heard}\]}}"):
        engine.prefill([torn])


# Caches


def test_a_group_computes_its_prompt_once_and_a_hint_adds_its_own_tokens_only(engine, prompts_of):
    prompt, _ = prompts_of("two videos with sound")
    length, block = len(prompt.ids), SETTINGS["block_size"]
    kept = (length - 1) // block * block  # whole blocks, and never the last token, whose logits are needed
    state = engine.prefill([prompt])
    engine.sample(state, [0] * 8, GREEDY)
    assert engine.prompt_tokens == 8 * length
    assert engine.cached_tokens == 7 * kept and kept > 3 * block
    engine.sample(state, [0] * 4, GREEDY, [HINT] * 4)
    assert engine.prompt_tokens == 8 * length + 4 * (length + len(HINT))
    behind = (length + len(HINT) - 1) // block * block
    assert engine.cached_tokens == 7 * kept + length // block * block + 3 * behind


def test_videos_that_differ_in_sound_alone_are_two_prompts(engine, tiny, prompts_of, processor_of):
    prompt, _ = prompts_of("video with sound")
    processor = processor_of("video with sound")
    silent = processor.encode(prompt.messages, frozenset({"audio"}))
    assert torch.equal(silent.ids, prompt.ids)
    own = HFEngine(tiny[1], processor)
    expected = own.sample(own.prefill([prompt, silent]), [0, 1], GREEDY)
    got = engine.sample(engine.prefill([prompt]), [0], GREEDY) + engine.sample(engine.prefill([silent]), [0], GREEDY)
    assert engine.cached_tokens == 0
    assert tokens(got) == tokens(expected) and difference(got, expected) < EXACT


# Weights


@pytest.mark.parametrize("kind", ["audio", "image and video with sound"])
def test_new_weights_change_what_is_said_and_make_it_what_the_new_model_says(
    engine, moved, prompts_of, processor_of, kind
):
    prompts = prompts_of(kind)
    before = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    engine.follow(moved, 1)
    engine.cached_tokens = 0
    after = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    own = HFEngine(moved, processor_of(kind))
    expected = own.sample(own.prefill(prompts), [0, 1], GREEDY)
    assert engine.cached_tokens == 0  # keys and values of the old weights are gone
    assert tokens(after) == tokens(expected) != tokens(before)
    assert difference(after, expected) < EXACT < difference(after, before)


def test_a_lora_adapter_is_sampled_with(engine, fresh, prompts_of, processor_of):
    prompts = prompts_of("video with sound")
    before = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    adapted = get_peft_model(
        fresh, LoraConfig(r=4, lora_alpha=64, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    engine.follow(adapted.eval(), 1)
    got = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    own = HFEngine(adapted, processor_of("video with sound"))
    expected = own.sample(own.prefill(prompts), [0, 1], GREEDY)
    assert tokens(got) == tokens(expected) and difference(got, expected) < EXACT < difference(got, before)


def test_weights_are_sent_once_for_each_step(engine, tiny, monkeypatch):
    loads, load = [], engine.host.load
    monkeypatch.setattr(engine.host, "load", lambda weights: loads.append(1) or load(weights))
    for step in (0, 1, 1, 2):
        engine.follow(tiny[1], step)
    assert len(loads) == 2


@pytest.fixture
def worker(engine):
    """VLLM's worker."""
    return engine.host.engine.model_executor.driver_worker.worker


def keep_out(weights_iterator, wanted, loader):
    return loader(weights_iterator=((n, v) for n, v in weights_iterator if wanted(n)), is_checkpoint_format=True)


def test_weights_that_do_not_arrive_are_noticed(engine, moved, monkeypatch):
    monkeypatch.setattr(engine.host, "load", lambda weights: [{"read": {}, "other": []} for _ in [list(weights)]])
    count = len(list(moved.parameters()))
    with pytest.raises(ParityError, match=rf"step 1: .* did not reach vLLM: {count} of {count} tensors were not taken"):
        engine.follow(moved, 1)
    monkeypatch.undo()
    engine.follow(moved, 1)  # is tried again


def test_weights_that_the_loader_reads_and_drops_are_noticed(engine, worker, moved, monkeypatch):
    monkeypatch.setattr(worker.model_runner, "reload_weights", lambda weights_iterator, **_: list(weights_iterator))
    with pytest.raises(
        ParityError, match=r": 0 of \d+ tensors were not taken as they were sent, \d+ are held otherwise, first"
    ):
        engine.follow(moved, 1)


def test_weights_that_are_changed_on_the_way_are_noticed(engine, moved, monkeypatch):
    load, name = engine.host.load, "thinker.model.layers.1.self_attn.v_proj.weight"

    def garbled(weights):
        return load((n, v + 1e-3 if n == name else v) for n, v in weights)

    monkeypatch.setattr(engine.host, "load", garbled)
    with pytest.raises(ParityError, match=rf": 1 of \d+ tensors were not taken .* first '{name}'"):
        engine.follow(moved, 1)
