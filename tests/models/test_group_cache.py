"""Attention on one copy of a prompt's keys is attention; a model that decodes so says what its plain forward says."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache

from models.engine.hf import draw
from models.group_cache import GroupCache, decoding
from models.shared_prefix import run_prompt
from runtime.errors import ConfigError

KEY_HEADS, HEADS, WIDTH, ROOM = 2, 6, 4, 5


def attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """(heads, D) of one query (heads, D) over (key heads, T, D), in float64 and by hand."""
    out = []
    for head, q in enumerate(query.double()):
        k, v = (x[head // (HEADS // KEY_HEADS)].double() for x in (keys, values))
        out.append(((k @ q) * scale).softmax(0) @ v)
    return torch.stack(out)


@st.composite
def scenes(pick: st.DrawFn) -> dict[str, Any]:
    """Prompts of any lengths, rows in any order, forced tokens for some, rows that leave in between."""
    lengths = pick(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    prompt_of = pick(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    forced = [pick(st.integers(0, 3)) for _ in prompt_of]
    leave = [sorted(pick(st.sets(st.integers(0, 5), max_size=2))) for _ in range(ROOM)]
    dtype = pick(st.sampled_from([torch.float32, torch.bfloat16]))
    return {"lengths": lengths, "prompt_of": prompt_of, "forced": forced, "leave": leave, "dtype": dtype}


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 9))
def test_it_is_attention_over_prompt_and_own_tokens(scene: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    lengths, prompt_of, dtype, scale = scene["lengths"], list(scene["prompt_of"]), scene["dtype"], 0.7
    longest = max(lengths)
    mask_BP = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    prompts = [
        (torch.randn(len(lengths), KEY_HEADS, longest, WIDTH, dtype=dtype),) * 2 + (None,) for _ in range(2)
    ]  # keys are values too: what is tested is which of them are seen
    kept = [layer[0].clone() for layer in prompts]
    most = max(scene["forced"])
    real_NF = torch.tensor([[0] * (most - n) + [1] * n for n in scene["forced"]]).reshape(len(prompt_of), most)
    cache = GroupCache(DynamicCache(prompts), mask_BP, torch.tensor(prompt_of), real_NF, ROOM)
    # by hand: what each row still alive has of its own, for each layer
    own = [[torch.zeros(KEY_HEADS, 0, WIDTH, dtype=dtype) for _ in prompt_of] for _ in prompts]

    def step(real_NC: torch.Tensor) -> None:
        rows, new = real_NC.shape
        for layer in range(len(prompts)):
            query = torch.randn(rows, HEADS, new, WIDTH, dtype=dtype)
            keys = torch.randn(rows, KEY_HEADS, new, WIDTH, dtype=dtype)
            cache.update(keys, keys, layer)
            got = cache.attend(layer, query, scale)
            assert got.dtype == torch.float32
            for row in range(rows):
                for at in range(new):
                    if not real_NC[row, at]:
                        continue
                    own[layer][row] = torch.cat([own[layer][row], keys[row, :, at : at + 1]], 1)
                    prompt = prompts[layer][0][prompt_of[row], :, longest - lengths[prompt_of[row]] :]
                    seen = torch.cat([prompt, own[layer][row]], 1)
                    want = attention(query[row, :, at], seen, seen, scale)
                    torch.testing.assert_close(got[row, :, at].double(), want, rtol=1e-5, atol=1e-5)

    if most:
        step(real_NF)
    for leaving in scene["leave"]:
        keep = [row for row in range(len(prompt_of)) if row not in leaving]
        if not keep:
            break
        if len(keep) < len(prompt_of):
            cache.keep(torch.tensor(keep))
            prompt_of = [prompt_of[row] for row in keep]
            own = [[rows[row] for row in keep] for rows in own]
        step(torch.ones(len(keep), 1, dtype=torch.long))
        assert len(cache.mask_BP) == len(set(prompt_of))  # a prompt without rows costs nothing
    assert all(torch.equal(layer[0], before) for layer, before in zip(prompts, kept, strict=True))


def test_a_prompt_is_kept_once_however_many_siblings_it_has() -> None:
    prompts = DynamicCache([(torch.zeros(2, KEY_HEADS, 50, WIDTH), torch.zeros(2, KEY_HEADS, 50, WIDTH), None)])
    rows = torch.tensor([0, 1]).repeat_interleave(16)
    cache = GroupCache(prompts, torch.ones(2, 50), rows, torch.ones(32, 0), ROOM)
    floats = sum(x.numel() for layer in (*cache.prompts, *cache.own) for x in layer)
    assert floats == 2 * KEY_HEADS * WIDTH * (2 * 50 + 32 * ROOM)
    assert cache.prompts[0][0].data_ptr() == prompts.layers[0].keys.data_ptr()  # in float32 not even once more


SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_text_model_decodes_what_its_plain_forward_says(kernel: str) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=kernel)).eval()
    backbone = model.base_model
    assert isinstance(backbone, PreTrainedModel)
    prompts = [torch.randint(50, (7,)), torch.randint(50, (4,))]
    own = torch.randint(50, (3, 3))
    ids = torch.stack([prompts[0], torch.cat([torch.zeros(3, dtype=torch.long), prompts[1]])])
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    prompt_of = torch.tensor([1, 0, 1])
    with torch.no_grad():
        state = run_prompt(backbone, {"input_ids": ids, "attention_mask": mask})
        cache = GroupCache(state.cache, mask, prompt_of, torch.ones(3, 2), 1)
        position = state.next_position_B[prompt_of, None]
        with decoding(backbone, cache) as after:
            two = after(own[:, :2], position + torch.arange(2))
            three = after(own[:, 2:], position + 2)
        for row, prompt in enumerate(prompt_of.tolist()):
            whole = backbone(torch.cat([prompts[prompt], own[row]])[None]).last_hidden_state[0]
            torch.testing.assert_close(two[row], whole[-2], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(three[row], whole[-1], rtol=1e-5, atol=1e-5)


def test_the_model_has_its_own_attention_back_afterwards_even_after_an_error() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager"))
    ids = torch.zeros(1, 3, dtype=torch.long)
    state = run_prompt(model.base_model, {"input_ids": ids, "attention_mask": ids + 1})  # pyright: ignore[reportArgumentType]
    cache = GroupCache(state.cache, ids + 1, ids[0, :1], ids[:, :0], 1)
    with pytest.raises(KeyError), decoding(model.base_model, cache):  # pyright: ignore[reportArgumentType]
        assert model.config._attn_implementation != "eager"
        raise KeyError
    assert model.config._attn_implementation == "eager"


def test_a_sliding_window_is_refused() -> None:
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))
    with pytest.raises(ConfigError) as error, decoding(model.base_model, None):  # type: ignore[arg-type]
        pass
    assert str(error.value) == (
        "engine=hf: samples only from models without a sliding window; got sliding_window=8 in the configuration of "
        "MistralModel; set engine=vllm, or use another model"
    )


def test_tokens_are_drawn_with_their_probabilities_and_never_without_one() -> None:
    torch.manual_seed(0)
    probs = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.05, 0.25, 0.0])
    drawn = draw(probs.repeat(40_000, 1))[:, 0].bincount(minlength=len(probs))
    possible = probs > 0
    assert not drawn[~possible].any()
    assert chisquare(drawn[possible], 40_000 * probs[possible].double() / probs.sum()).pvalue > 0.01
