"""Sampling from the training model itself: a group shares one prefilled prompt, and a hint re-roll shares it too."""

from collections.abc import Sequence

import torch

from models.engine.base import Completion, Sampling
from models.fingerprint import Fingerprint, watch
from models.group_cache import GroupCache, decoding
from models.processor import Encoded, Processor
from models.shared_prefix import PromptState, backbone_of, run_prompt, thinker


def draw(probs_NV: torch.Tensor) -> torch.Tensor:
    """(N, 1) an index for each row of probabilities: the first at which their sum is above a uniform number.

    In float64, because a vocabulary is long. `multinomial` draws a number for each of its tokens, and takes ten times as long.
    """
    sum_NV = probs_NV.cumsum(-1, dtype=torch.float64)
    at_N1 = torch.rand(len(sum_NV), 1, dtype=torch.float64, device=sum_NV.device) * sum_NV[:, -1:]
    return torch.searchsorted(sum_NV, at_N1, right=True)


class HFEngine:
    """Samples with a transformers model, media prompts included.

    Args:
        model: the policy, with or without PEFT wrapper.
        processor: its processor.
    """

    def __init__(self, model: torch.nn.Module, processor: Processor) -> None:
        self.model = thinker(model)
        self.processor = processor
        self.fingerprints: list[Fingerprint] = []
        """[B] what the model was given of each prompt of the latest `prefill`."""

    def follow(self, model: torch.nn.Module, step: int) -> None:
        """Sample from this model, whose weights are the policy's own; see `Engine.follow`."""
        self.model = thinker(model)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Encoded]) -> PromptState:
        """Run the prompts once; `sample` may be called on the result any number of times."""
        with watch(self.model) as sight:
            state = run_prompt(backbone_of(self.model), self.processor.collate(prompts, self.model.device))
        self.fingerprints = sight.dealt(prompts)
        return state

    @torch.no_grad()
    def sample(
        self,
        state: PromptState,
        prompt_of: Sequence[int],
        sampling: Sampling,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:
        """One completion for each entry of `prompt_of`.

        Args:
            state: the prefilled prompts.
            prompt_of: [N] index of the prompt of each completion.
            sampling: how to draw.
            prefixes: [N] token ids forced before sampling starts (hints), each possibly empty; None for none at all.
        """
        backbone, head = backbone_of(self.model), self.model.get_output_embeddings()
        assert head is not None
        device = state.mask_BP.device
        rows_N = torch.tensor(prompt_of, dtype=torch.long, device=device)
        position_N = state.next_position_B[rows_N]
        logits_NV = head(state.hidden_BPH[rows_N, -1]).float()
        forced = max(map(len, prefixes), default=0) if prefixes else 0
        ids_NF = torch.zeros(len(rows_N), forced, dtype=torch.long, device=device)
        real_NF = torch.zeros_like(ids_NF)  # shorter ones are padded in front
        for row, prefix in enumerate(prefixes or ()):
            if prefix:
                ids_NF[row, -len(prefix) :] = torch.tensor(list(prefix), device=device)
                real_NF[row, -len(prefix) :] = 1
        cache = GroupCache(state.cache, state.mask_BP, rows_N, real_NF, sampling.max_new_tokens)

        banned = torch.tensor(self.processor.forbidden_ids, dtype=torch.long, device=device)
        ends = torch.tensor(self.processor.eos_ids, dtype=torch.long, device=device)
        tokens: list[list[int]] = [[] for _ in prompt_of]
        logprobs: list[list[float]] = [[] for _ in prompt_of]
        finished = [False] * len(prompt_of)
        live = list(range(len(prompt_of)))  # which completion each row of the tensors still holds
        with decoding(backbone, cache) as after:
            if forced:
                places_NF = position_N[:, None] + (real_NF.cumsum(1) - 1).clamp(min=0)
                after_NV = head(after(ids_NF, places_NF)).float()
                logits_NV = torch.where(real_NF.any(1)[:, None], after_NV, logits_NV)
                position_N = position_N + real_NF.sum(1)
            for step in range(sampling.max_new_tokens):
                scaled_NV = logits_NV / (sampling.temperature or 1.0)
                allowed_NV = scaled_NV.index_fill(1, banned, -torch.inf)
                token_N1 = draw(allowed_NV.softmax(-1)) if sampling.temperature else allowed_NV.argmax(-1, keepdim=True)
                token_N, logprob_N = token_N1[:, 0], scaled_NV.log_softmax(-1).gather(1, token_N1)[:, 0]
                over_N = torch.isin(token_N, ends)
                for i, token, logprob, over in zip(
                    live, token_N.tolist(), logprob_N.tolist(), over_N.tolist(), strict=True
                ):
                    tokens[i].append(token)
                    logprobs[i].append(logprob)
                    finished[i] = over
                keep = (~over_N).nonzero()[:, 0]
                if not len(keep) or step + 1 == sampling.max_new_tokens:
                    break
                if len(keep) < len(live):  # finished rows leave the batch at once
                    live = [live[i] for i in keep.tolist()]
                    token_N, position_N = token_N[keep], position_N[keep]
                    cache.keep(keep)
                logits_NV = head(after(token_N[:, None], position_N[:, None])).float()
                position_N = position_N + 1
        return [Completion(tuple(t), tuple(p), done) for t, p, done in zip(tokens, logprobs, finished, strict=True)]

    def generate(self, prompts: Sequence[Encoded], sampling: Sampling, n: int, batch: int) -> list[list[Completion]]:
        """`n` completions for each prompt, `batch` prompts at a time, with the model in evaluation mode.

        Returns:
            One list of `n` completions per prompt, in order.
        """
        training = self.model.training
        self.model.eval()
        out: list[list[Completion]] = []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            flat = self.sample(self.prefill(part), [i for i in range(len(part)) for _ in range(n)], sampling)
            out += [flat[i * n : (i + 1) * n] for i in range(len(part))]
        self.model.train(training)
        return out
