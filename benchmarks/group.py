"""One prompt, G completions: sampling, a hint re-roll, scoring, scoring with backward; row by row and with the prompt shared.

The row-wise side is given its media ready-made; what encoding them again costs shows in the whole step (benchmarks/step.py).
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from benchmarks import naive
from benchmarks.scene import Scene
from benchmarks.timing import GRADIENT, LOGPS, SAME, Comparison, Result, Timing
from models.engine.hf import HFEngine, Sampling
from models.processor import Encoded
from models.shared_prefix import SharedPrefix, attach, score


def scorer(scene: Scene) -> PreTrainedModel:
    """A copy of the scene's model that both ways of scoring can be asked of."""
    model = copy.deepcopy(scene.model)
    attach(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def score_shared(model: PreTrainedModel, scene: Scene, prompt: Encoded, ids_NC: Tensor) -> Tensor:
    """(N, C) log-probabilities, the prompt run once."""
    mask_NC = torch.ones_like(ids_NC)
    prompt_of_N = ids_NC.new_zeros(len(ids_NC))
    shared = SharedPrefix(scene.processor.collate([prompt], model.device), ids_NC, mask_NC, prompt_of_N)
    return score(model, shared)[0]


def score_rows(model: PreTrainedModel, scene: Scene, prompt: Encoded, ids_NC: Tensor) -> Tensor:
    """(N, C) log-probabilities, the prompt run once for each row."""
    return naive.score(model, rows_of(scene, prompt, len(ids_NC)), ids_NC)[0]


def score_rows_short_head(model: PreTrainedModel, scene: Scene, prompt: Encoded, ids_NC: Tensor) -> Tensor:
    """As `score_rows`, with the head on completion positions alone, which is what TRL's kernel does on CUDA."""
    batch = rows_of(scene, prompt, len(ids_NC))
    whole = batch | {
        "input_ids": torch.cat([batch["input_ids"], ids_NC], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(ids_NC)], 1),
    }
    hidden_NCH = model.base_model(**whole, use_cache=False).last_hidden_state[:, -ids_NC.shape[1] - 1 : -1]
    head = model.get_output_embeddings()
    assert head is not None
    return head(hidden_NCH).float().log_softmax(-1).gather(-1, ids_NC[..., None])[..., 0]


def rows_of(scene: Scene, prompt: Encoded, rows: int) -> naive.Batch:
    """A batch that holds the prompt and its media `rows` times."""
    return scene.processor.collate([prompt] * rows, scene.model.device)


Score = Callable[[PreTrainedModel, Scene, Encoded, Tensor], Tensor]


def without_gradient(
    score: Score, model: PreTrainedModel, scene: Scene, prompt: Encoded, ids_NC: Tensor
) -> Callable[[], Result]:
    """Scoring as for old and reference log-probabilities."""

    def work() -> Result:
        with torch.no_grad():
            return {"logps": score(model, scene, prompt, ids_NC)}

    return work


def with_backward(
    score: Score, model: PreTrainedModel, scene: Scene, prompt: Encoded, ids_NC: Tensor
) -> Callable[[], Result]:
    """Scoring and the gradient of the mean log-probability, a weight for each row of the group.

    Where completions repeat because there are more of them than the scene's group has, log-probabilities of the first
    group and the whole mean's gradient are returned: both are the same for any number of repetitions.
    """
    size = scene.size.group
    weight_N1 = torch.linspace(-1, 1, size, device=ids_NC.device).repeat(len(ids_NC) // size)[:, None]

    def work() -> Result:
        model.zero_grad()
        logps_NC = score(model, scene, prompt, ids_NC)
        (logps_NC * weight_N1).mean().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return {"logps": logps_NC[:size].detach(), "gradient": torch.cat(grads)}

    return work


def scoring(scene: Scene) -> list[Comparison]:
    """Without and with a gradient, at the scene's group size and prompt."""
    model, prompt, ids = scorer(scene), scene.prompt(scene.size.seconds[1]), scene.completions(scene.size.group)
    this = (model, scene, prompt, ids)
    return [
        Comparison(
            "scoring, no gradient",
            {"rows": without_gradient(score_rows, *this), "shared": without_gradient(score_shared, *this)},
            {"logps": LOGPS},
        ),
        Comparison(
            "scoring and backward",
            {
                "rows": with_backward(score_rows, *this),
                "rows, head on completion": with_backward(score_rows_short_head, *this),
                "shared": with_backward(score_shared, *this),
            },
            {"logps": LOGPS, "gradient": GRADIENT},
        ),
    ]


def growth(scene: Scene) -> list[Comparison]:
    """Scoring and backward behind a short and a long prompt; behind the long one with 2 and 4 times as many siblings."""
    model, size = scorer(scene), scene.size
    comparisons = []
    for seconds, groups in ((size.seconds[0], (1,)), (size.seconds[-1], (1, 2, 4))):
        prompt = scene.prompt(seconds)
        ways = {"rows": with_backward(score_rows, model, scene, prompt, scene.completions(size.group))}
        for times in groups:
            ids = scene.completions(times * size.group)
            ways[f"shared, G = {len(ids)}"] = with_backward(score_shared, model, scene, prompt, ids)
        name = f"scoring and backward, P = {len(prompt.ids)}"
        comparisons.append(Comparison(name, ways, {"logps": LOGPS, "gradient": GRADIENT}))
    return comparisons


def operations(scene: Scene, prompt: int, group: int, *, rows: bool) -> int:
    """Of one forward of the language model over a group, towers left out: what its time would follow if nothing else cost any.

    Args:
        scene: its model and its completion length.
        prompt: P, tokens.
        group: G.
        rows: with the prompt in each row, and the head on every position, as on a CPU; else shared, and the head on completions.
    """
    config, length = scene.model.config.get_text_config(), scene.size.completion
    layers = scene.model.base_model.get_submodule("language_model.layers")
    weights = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear))
    head = config.vocab_size * config.hidden_size
    copies = group if rows else 1
    tokens = copies * prompt + group * length
    pairs = copies * prompt * (prompt + 1) // 2 + group * (length * prompt + length * (length + 1) // 2)
    width = config.num_hidden_layers * config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    return 2 * weights * tokens + 2 * head * (tokens if rows else group * length) + 4 * width * pairs


def bound(scene: Scene) -> str:
    """How many operations scoring saves."""
    prompt, group = len(scene.prompt(scene.size.seconds[1]).ids), scene.size.group
    ratio = operations(scene, prompt, group, rows=True) / operations(scene, prompt, group, rows=False)
    return f"scoring, P = {prompt}, G = {group}: rows take {ratio:.1f} times the operations of the language model"


def grown(timing: Timing, scene: Scene) -> str:
    """How the cost of the long prompt grows from the smallest group to the largest."""
    prompt, (few, many) = len(scene.prompt(scene.size.seconds[-1]).ids), (scene.size.group, 4 * scene.size.group)
    cost = timing.seconds[f"shared, G = {many}"] / timing.seconds[f"shared, G = {few}"]
    tokens = (prompt + many * scene.size.completion) / (prompt + few * scene.size.completion)
    work = operations(scene, prompt, many, rows=False) / operations(scene, prompt, few, rows=False)
    return f"P = {prompt}, G = {few} to {many}: {cost:.2f} times the time, {tokens:.2f} the tokens, {work:.2f} the operations"


def sampling(scene: Scene) -> list[Comparison]:
    """A whole group from its prompt; and half a group again behind a hint, after the group itself has been sampled."""
    model, size = copy.deepcopy(scene.model).eval(), scene.size
    prompt, engine = scene.prompt(size.seconds[1]), HFEngine(model, scene.processor)
    greedy = Sampling(size.completion, 0.0)
    hint, half = scene.completions(1)[0, :1].repeat(size.hint), size.group // 2

    @torch.no_grad()
    def rows() -> Result:
        batch = rows_of(scene, prompt, size.group)
        return {"ids": naive.generate(model, batch, scene.processor, size.completion, do_sample=False)}

    def shared() -> Result:
        return {"ids": ids_of(engine, engine.sample(engine.prefill([prompt]), [0] * size.group, greedy))}

    @torch.no_grad()
    def rows_again() -> Result:
        batch = rows_of(scene, prompt, half)
        hints = hint.expand(half, -1)
        batch["input_ids"] = torch.cat([batch["input_ids"], hints], 1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(hints)], 1)
        return {"ids": naive.generate(model, batch, scene.processor, size.completion, do_sample=False)}

    state = engine.prefill([prompt])

    def shared_again() -> Result:
        return {"ids": ids_of(engine, engine.sample(state, [0] * half, greedy, [hint.tolist()] * half))}

    def ids_of(engine: HFEngine, completions: list) -> Tensor:
        return torch.tensor([c.token_ids for c in completions], device=engine.model.device)

    return [
        Comparison("sampling", {"rows, generate": rows, "shared": shared}, {"ids": SAME}),
        Comparison(
            "hint re-roll of half a group", {"rows, generate": rows_again, "shared": shared_again}, {"ids": SAME}
        ),
    ]
