"""The samples of a batch in one row, without padding, exactly.

In a padded batch every sample is as long as the longest one. `attach` gives the backbone a `scored_BL` argument: called with
it, the padding is taken out, and towers and language model see one row that holds the samples one after the other, each at
its own positions and attending to itself alone. What comes back are the hidden states at the scored positions, which is all
that a loss on answers asks for, so that the head runs there and nowhere else.

With the attention kernel `sdpa` every sample is attended by itself (models/block_attention.py): a dense mask over a row of T
tokens would cost T x T, most of it between samples. The other kernels are told by positions that start again, which is how
transformers knows a packed row: `flash_attention_2` then takes its call for variable lengths (not run on a GPU yet), `eager`
and models with a sliding window get a dense mask.

Axes: B samples, L length of the longest (padded), T sum of the lengths, S scored positions, H width.
"""

import types
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel, Qwen2_5OmniThinkerModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from models.block_attention import BlockBias
from models.shared_prefix import backbone_of, packable, positions_of


def _hidden(
    backbone: PreTrainedModel,
    run,
    scored_BL: torch.Tensor,
    *,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    **rest: Any,
) -> torch.Tensor:
    """(1, S, H) hidden states at the scored positions, sample after sample."""
    real_BL = attention_mask.bool()
    position_ABL, _ = positions_of(backbone, {"input_ids": input_ids, "attention_mask": attention_mask, **rest})
    position = position_ABL[0, real_BL][None]
    if isinstance(backbone, Qwen2_5OmniThinkerModel):
        # of four axes the first is the place in the text, by which transformers tells the samples apart
        place = (attention_mask.cumsum(1) - 1)[real_BL]
        position = torch.cat([place[None], position_ABL[:, real_BL]])[:, None]
    lengths = real_BL.sum(1).tolist()
    hidden_1TH = run(
        input_ids=input_ids[real_BL][None],
        attention_mask=BlockBias.of(lengths, [None] * len(lengths)) if packable(backbone) else None,
        position_ids=position,
        **rest,
    ).last_hidden_state
    return hidden_1TH[:, scored_BL[real_BL]]


def attach(model: torch.nn.Module) -> None:
    """Let the model's backbone take `scored_BL`, a mask over a padded batch, beside its usual inputs.

    Its `last_hidden_state` is then (1, S, H), sample after sample, and (B, L, H) as ever without it.
    """
    backbone = backbone_of(model)
    original = backbone.forward

    def forward(self, *args, scored_BL: torch.Tensor | None = None, **kwargs):
        if scored_BL is None:
            return original(*args, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=_hidden(self, original, scored_BL, **kwargs))

    backbone.forward = types.MethodType(forward, backbone)


def pack(inputs: dict[str, Any]) -> dict[str, Any]:
    """A padded batch with `labels` (B, L) as a model that was attached to takes it.

    Returns:
        The batch with `scored_BL` and `shift_labels` (1, S) in place of `labels`: the positions that predict a label, and
        these labels. TRL's fused head takes `shift_labels` as they are, so none slips from one sample into the next.
    """
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    next_BL = pad(inputs["labels"][:, 1:], (0, 1), value=-100)
    scored_BL = next_BL != -100
    return rest | {"scored_BL": scored_BL, "shift_labels": next_BL[scored_BL][None]}
