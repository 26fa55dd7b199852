"""Sampling on a kept prompt: the tokens of transformers' `generate`, the log-probabilities of a scoring pass."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from cases import KINDS, Case

from models.engine.hf import Completion, HFEngine, Sampling
from models.processor import Encoded, Processor
from models.shared_prefix import backbone_of

GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
HINT, LONGER_HINT = (300, 301, 302), (400, 401, 402, 403, 404)


def tokens(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [c.token_ids for c in completions]


def behind(prompt: Encoded, prefix: Sequence[int]) -> Encoded:
    """A prompt that ends in `prefix`."""
    return replace(prompt, ids=torch.cat([prompt.ids, torch.tensor(list(prefix))]))


def ending_at(processor: Processor, token: int) -> Processor:
    """A processor whose end token is one that the random model does say."""
    other = copy.copy(processor)
    other.eos_ids = [token]
    return other


def scored(
    case: Case, prompt: Encoded, prefix: Sequence[int], completion: Completion, temperature: float
) -> torch.Tensor:
    """[T] log-probabilities of the sampled tokens from one ordinary forward."""
    batch = case.processor.collate([prompt])
    new = torch.tensor([*prefix, *completion.token_ids])
    batch["input_ids"] = torch.cat([batch["input_ids"], new[None]], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    head = case.model.get_output_embeddings()
    assert head is not None
    hidden = backbone_of(case.model)(**batch, use_cache=False).last_hidden_state
    logps = (head(hidden[0, :-1]) / temperature).log_softmax(-1)
    count = len(completion.token_ids)
    return logps[-count:].gather(1, new[-count:, None])[:, 0]


def early_end(case: Case) -> int:
    """A token that greedy sampling says in the middle of the first prompt's completion, and not in the second's."""
    engine = HFEngine(case.model, case.processor)
    first, second = tokens(engine.sample(engine.prefill(case.prompts), [0, 1], GREEDY))
    return next(t for i, t in enumerate(first) if i > 0 and t not in second and first.index(t) == i)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_sampling_is_what_generate_does_with_repeated_prompts(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    prompt_of = [0, 0, 1, 0, 1]
    engine = HFEngine(this.model, this.processor)
    got = tokens(engine.sample(engine.prefill(this.prompts), prompt_of, GREEDY))
    batch = this.processor.collate([this.prompts[i] for i in prompt_of])
    out = this.model.generate(  # pyright: ignore[reportCallIssue]
        **batch,
        max_new_tokens=GREEDY.max_new_tokens,
        do_sample=False,
        suppress_tokens=this.processor.forbidden_ids or None,
        eos_token_id=this.processor.eos_ids,
        pad_token_id=this.processor.pad_id,
    )
    assert [list(row) for row in got] == torch.as_tensor(out)[:, batch["input_ids"].shape[1] :].tolist()
    assert got[0] != got[2] and len(set(got[0])) > 1  # there is something to compare


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_recorded_log_probabilities_are_those_of_a_scoring_pass_at_the_same_temperature(
    case: Callable[[str], Case], kind: str, temperature: float
) -> None:
    this = case(kind)
    engine = HFEngine(this.model, this.processor)
    prompt_of, prefixes = [0, 0, 1, 1], [(), HINT, LONGER_HINT, ()]
    torch.manual_seed(0)
    done = engine.sample(engine.prefill(this.prompts), prompt_of, Sampling(10, temperature), prefixes)
    with torch.no_grad():
        for prompt, prefix, completion in zip(prompt_of, prefixes, done, strict=True):
            want = scored(this, this.prompts[prompt], prefix, completion, temperature)
            torch.testing.assert_close(torch.tensor(completion.logprobs), want, rtol=0, atol=1e-4)


def test_greedy_log_probabilities_are_recorded_at_temperature_one(case: Callable[[str], Case]) -> None:
    this = case("audio")
    engine = HFEngine(this.model, this.processor)
    (done,) = engine.sample(engine.prefill(this.prompts[:1]), [0], GREEDY)
    with torch.no_grad():
        want = scored(this, this.prompts[0], (), done, 1.0)
    torch.testing.assert_close(torch.tensor(done.logprobs), want, rtol=0, atol=1e-4)


def test_the_same_seed_draws_the_same_and_a_low_temperature_draws_what_is_likely(case: Callable[[str], Case]) -> None:
    this = case("text")
    engine = HFEngine(this.model, this.processor)
    state = engine.prefill(this.prompts)

    def draw(temperature: float, seed: int) -> list[tuple[int, ...]]:
        torch.manual_seed(seed)
        return tokens(engine.sample(state, [0] * 8, Sampling(6, temperature)))

    assert draw(1.0, seed=3) == draw(1.0, seed=3) != draw(1.0, seed=4)
    assert len(set(draw(1.0, seed=3))) == 8
    assert set(draw(1e-4, seed=3)) == set(tokens(engine.sample(state, [0], Sampling(6, 0.0))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hint_is_context_as_if_the_prompt_ended_in_it(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    engine = HFEngine(this.model, this.processor)
    prefixes = [HINT, LONGER_HINT, HINT]
    hinted = engine.sample(engine.prefill(this.prompts), [0, 1, 1], GREEDY, prefixes)
    for prompt, prefix, completion in zip([0, 1, 1], prefixes, hinted, strict=True):
        (alone,) = engine.sample(engine.prefill([behind(this.prompts[prompt], prefix)]), [0], GREEDY)
        assert completion.token_ids == alone.token_ids
        torch.testing.assert_close(completion.logprobs, alone.logprobs, rtol=0, atol=1e-4)
    assert hinted[1].token_ids != hinted[2].token_ids  # the hint matters


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_hint_beside_hinted_ones_are_as_without_hints(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    engine = HFEngine(this.model, this.processor)
    state = engine.prefill(this.prompts)
    plain = engine.sample(state, [0, 1], GREEDY)
    beside = engine.sample(state, [0, 0, 1, 1], GREEDY, [(), HINT, LONGER_HINT, ()])
    assert tokens([beside[0], beside[3]]) == tokens(plain)
    for a, b in zip([beside[0], beside[3]], plain, strict=True):
        torch.testing.assert_close(a.logprobs, b.logprobs, rtol=0, atol=1e-4)
    assert tokens(engine.sample(state, [0, 1], GREEDY, [(), ()])) == tokens(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_can_be_sampled_from_again_and_again(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    engine = HFEngine(this.model, this.processor)
    state = engine.prefill(this.prompts)
    before = engine.sample(state, [0, 1], GREEDY)
    engine.sample(state, [1, 1, 1], Sampling(3, 1.0), [HINT, (), LONGER_HINT])
    assert engine.sample(state, [0, 1], GREEDY) == before


def test_rows_that_are_finished_leave_and_the_others_go_on_as_alone(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    ending = ending_at(this.processor, early_end(this))
    engine = HFEngine(this.model, ending)
    rows: list[int] = []
    hook = (
        backbone_of(this.model)
        .get_submodule("language_model")
        .register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
        )
    )
    short, long, hinted = engine.sample(engine.prefill(this.prompts), [0, 1, 1], GREEDY, [(), (), HINT])
    hook.remove()
    assert short.finished and short.token_ids[-1] == ending.eos_ids[0] and short.token_ids.count(ending.eos_ids[0]) == 1
    assert not long.finished and len(long.token_ids) == len(long.logprobs) == 12
    assert rows[0] == 2 and rows[1] == 3 and rows[-1] < 3 and len(short.token_ids) < 12  # it left at once
    for prompt, prefix, completion in ((0, (), short), (1, (), long), (1, HINT, hinted)):
        (alone,) = engine.sample(engine.prefill([this.prompts[prompt]]), [0], GREEDY, [prefix])
        assert completion.token_ids == alone.token_ids and completion.finished == alone.finished
        torch.testing.assert_close(completion.logprobs, alone.logprobs, rtol=0, atol=1e-4)


def test_the_end_token_may_be_the_last_one_allowed(case: Callable[[str], Case]) -> None:
    this = case("text")
    ending = ending_at(this.processor, early_end(this))
    engine = HFEngine(this.model, ending)
    state = engine.prefill(this.prompts)
    (whole,) = engine.sample(state, [0], GREEDY)
    length = len(whole.token_ids)
    (exact,) = engine.sample(state, [0], Sampling(length, 0.0))
    (cut,) = engine.sample(state, [0], Sampling(length - 1, 0.0))
    assert whole.finished and exact == whole
    assert not cut.finished and cut.token_ids == whole.token_ids[:-1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_media_tokens_are_never_sampled_however_likely_they_are(
    case: Callable[[str], Case], temperature: float
) -> None:
    this = case("video with sound")
    forbidden = this.processor.forbidden_ids
    head = this.model.get_output_embeddings()
    assert head is not None and len(forbidden) == 7
    force = torch.zeros(head.weight.shape[0])
    force[forbidden] = 1000.0
    hook = head.register_forward_hook(lambda module, args, out: out + force)
    engine = HFEngine(this.model, this.processor)
    done = engine.sample(engine.prefill(this.prompts), [0, 1], Sampling(12, temperature), [(), HINT])
    hook.remove()
    assert not set(forbidden) & {t for c in done for t in c.token_ids}
    # recorded as the policy's own: next to nothing is left for other tokens, and a scoring pass would say so, too
    assert all(logprob < -900 for c in done for logprob in c.logprobs)


def test_generate_gives_n_completions_a_prompt_whatever_the_batch_and_restores_the_mode(
    case: Callable[[str], Case],
) -> None:
    this = case("audio")
    this.model.train()
    engine = HFEngine(this.model, this.processor)
    prompts = [*this.prompts, this.prompts[0]]
    by_two = engine.generate(prompts, GREEDY, n=2, batch=2)
    assert [len(group) for group in by_two] == [2, 2, 2] and this.model.training
    assert [tokens(group) for group in by_two] == [
        tokens(group) for group in engine.generate(prompts, GREEDY, n=2, batch=1)
    ]
    assert by_two[0][0].token_ids == by_two[2][1].token_ids != by_two[1][0].token_ids
    this.model.eval()
    engine.generate(prompts[:1], GREEDY, n=1, batch=1)
    assert not this.model.training


def test_sampling_leaves_no_gradient_behind(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    engine = HFEngine(this.model, this.processor)
    state = engine.prefill(this.prompts)
    assert not state.hidden_BPH.requires_grad
    assert all(not keys.requires_grad for keys, _, _ in state.cache if keys is not None)
