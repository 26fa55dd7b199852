"""One prompt, G completions: the prompt and its media pass through towers and language model once per group.

P + G*C tokens instead of G*(P + C), exactly: the prompt is run with a differentiable key/value cache, the cache rows are
repeated per completion, and the completions run on top of it. `attach` gives the backbone a `shared_prefix` argument, so
that DDP, PEFT and TRL's fused LM head still see one ordinary call per micro-batch.

Axes: B prompts, N completions (all groups together), P prompt length, C completion length, H width.
"""

import types
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Qwen2_5OmniThinkerModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """What the backbone needs to score N completions of B prompts."""

    prompt: dict[str, Any]
    """Left-padded model input of the B prompts, media included."""
    completion_ids_NC: torch.Tensor
    completion_mask_NC: torch.Tensor
    """1 on real tokens; padding on the right."""
    prompt_of_N: torch.Tensor
    """Index of the prompt that each completion belongs to."""


@dataclass(frozen=True, slots=True)
class PromptState:
    """Prompts that have been run once."""

    hidden_BPH: torch.Tensor
    cache: DynamicCache
    mask_BP: torch.Tensor
    next_position_B: torch.Tensor
    """Position of the first completion token: media take fewer positions than tokens."""


def thinker(model: torch.nn.Module) -> PreTrainedModel:
    """The causal language model below a PEFT wrapper (whose own `.model` is not the backbone), or the model itself."""
    found = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(found, PreTrainedModel), type(found)
    return found


def backbone_of(model: torch.nn.Module) -> PreTrainedModel:
    """The model without its head: what `shared_prefix` is attached to."""
    found = thinker(model).base_model
    assert isinstance(found, PreTrainedModel), type(found)
    return found


def run_prompt(backbone: PreTrainedModel, prompt: dict[str, Any], run=None) -> PromptState:
    """Towers and language model over left-padded prompts, once."""
    run = run or backbone
    mask_BP = prompt["attention_mask"]
    if isinstance(backbone, Qwen2_5OmniThinkerModel):
        out = run(**prompt, use_cache=True)
        assert backbone.rope_deltas is not None  # state that this very call has set
        offset_B = backbone.rope_deltas[:, 0]
    else:
        out = run(**prompt, position_ids=(mask_BP.cumsum(1) - 1).clamp(min=0), use_cache=True)
        offset_B = 0
    return PromptState(out.last_hidden_state, out.past_key_values, mask_BP, mask_BP.sum(1) + offset_B)


def run_completion(
    backbone: PreTrainedModel,
    ids_NC: torch.Tensor,
    mask_NK: torch.Tensor,
    position_NC: torch.Tensor,
    cache: DynamicCache,
    run=None,
) -> torch.Tensor:
    """Language model over text that follows cached keys; K counts cached and new positions.

    Returns:
        (N, C, H) hidden states.
    """
    omni = isinstance(backbone, Qwen2_5OmniThinkerModel)
    lm = backbone.language_model if omni else (run or backbone)
    return lm(
        inputs_embeds=backbone.get_input_embeddings()(ids_NC),
        attention_mask=mask_NK,
        position_ids=position_NC.expand(3, -1, -1) if omni else position_NC,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _hidden(backbone: PreTrainedModel, run, shared: SharedPrefix) -> torch.Tensor:
    """(N, 1+C, H): the last prompt position, then every completion position, which is what a head shifted by one needs."""
    if backbone.is_activation_checkpointing and backbone.training:
        raise ConfigError(
            "gradient_checkpointing: must be false, because checkpointed layers drop the key/value cache that completions "
            "of one prompt share; set rl.gradient_checkpointing=false"
        )
    state = run_prompt(backbone, shared.prompt, run)
    rows_N = shared.prompt_of_N
    state.cache.batch_select_indices(rows_N)  # keeps the graph: gradients of all siblings meet in the prompt
    mask_NK = torch.cat([state.mask_BP[rows_N], shared.completion_mask_NC.to(state.mask_BP.dtype)], 1)
    steps_C = torch.arange(shared.completion_ids_NC.shape[1], device=mask_NK.device)
    position_NC = state.next_position_B[rows_N, None] + steps_C
    after_NCH = run_completion(backbone, shared.completion_ids_NC, mask_NK, position_NC, state.cache, run)
    return torch.cat([state.hidden_BPH[rows_N, -1:], after_NCH], 1)


def attach(model: torch.nn.Module) -> None:
    """Let the model's backbone take `shared_prefix=SharedPrefix(...)` in place of its usual inputs."""
    backbone = backbone_of(model)
    original = backbone.forward

    def forward(self, *args, shared_prefix: SharedPrefix | None = None, **kwargs):
        if shared_prefix is None:
            return original(*args, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=_hidden(self, original, shared_prefix))

    backbone.forward = types.MethodType(forward, backbone)


def shifted_labels(completion_ids_NC: torch.Tensor, completion_mask_NC: torch.Tensor) -> torch.Tensor:
    """(N, 1+C) labels for a head that shifts by one: -100 at the prompt position and on padding."""
    blank = completion_ids_NC.new_full((len(completion_ids_NC), 1), -100)
    return torch.cat([blank, completion_ids_NC.masked_fill(completion_mask_NC == 0, -100)], 1)
