"""The yardstick: the port of TRL's GRPO to an omni thinker that anybody would write first. It is right, and it repeats itself.

TRL 1.16 knows images only and treats a group as G unrelated prompts. Carried over to sound and video as it stands, that
means: the processor runs on every one of the G copies of a prompt, once to sample and once to score; `generate` is given
G copies; the loss runs over G x (P + C) tokens, with TRL's fused head, which on a CPU projects every position.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_trainer import GRPOTrainer

from models.media import read_audio, read_video
from models.processor import Processor
from tasks.base import Message

Batch = dict[str, Any]


def encode(processor: Processor, messages: Sequence[Message]) -> Batch:
    """A prompt about one video with sound, through the stock processor: sound is padded to the extractor's whole window."""
    stock: Any = processor.processor
    settings = processor.settings
    ((video,), *_) = ([p for p in m["content"] if p["type"] == "video"] for m in messages)
    frames, fps = read_video(video["path"], settings.fps, video["span"], settings.max_frames)
    out = stock(
        text=[stock.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)],
        audio=[read_audio(video["path"], video["span"])],
        videos=[frames],
        load_audio_from_video=True,
        audio_from_video_indices=[0],
        videos_kwargs={"size": settings.video_size, "do_sample_frames": False},
        fps=fps,
        return_tensors="pt",
    )
    return dict(out)


def stack(rows: Sequence[Batch], pad_id: int, device: torch.device | str) -> Batch:
    """Rows of one length each, padded on the left into one model input."""
    longest = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        values = [torch.as_tensor(row[name]) for row in rows]
        if name in ("input_ids", "attention_mask"):
            blank = pad_id if name == "input_ids" else 0
            values = [torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=blank) for v in values]
        batch[name] = torch.cat(values).to(device)
    return batch | {"use_audio_in_video": True}


def generate(model: Any, batch: Batch, processor: Processor, length: int, **options: Any) -> torch.Tensor:
    """(N, C) what transformers' `generate` writes after each row."""
    out = model.generate(
        **batch, max_new_tokens=length, suppress_tokens=processor.forbidden_ids, use_cache=True, **options
    )
    return out[:, batch["input_ids"].shape[1] :]


def score(model: torch.nn.Module, batch: Batch, ids_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C) log-probabilities and entropies of completions, one row of prompt and completion each."""
    labels = torch.cat([torch.full_like(batch["input_ids"], -100), ids_NC], 1)
    whole = batch | {
        "input_ids": torch.cat([batch["input_ids"], ids_NC], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(ids_NC)], 1),
    }
    out = model(**whole, labels=labels, fused_lm_head=True)
    length = ids_NC.shape[1]
    return out.log_probs[:, -length:], out.entropy[:, -length:]


class NaiveGRPOTrainer(GRPOTrainer):
    """TRL's trainer, made to hear and see in the shortest way.

    Args:
        processor: whose stock processor encodes, and whose forbidden tokens are not sampled.
        messages: the prompt behind each uid.
        grade: a completion's reward.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: Any,
        *,
        processor: Processor,
        messages: Mapping[str, Sequence[Message]],
        grade: Callable[[str, str], float | None],
        train_dataset: Any,
        callbacks: list[Any],
    ) -> None:
        def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
            return [grade(uid, text) for uid, text in zip(prompts, completions, strict=True)]

        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            reward_funcs=[reward],
            train_dataset=train_dataset,
            processing_class=processor.tokenizer,
            callbacks=callbacks,
            rollout_func=lambda uids, _: self.roll_out(uids),
        )
        self.processor, self.messages = processor, messages
        self._rows: list[Batch] = []

    def roll_out(self, uids: Sequence[str]) -> dict[str, Any]:
        """`generate` on every copy of every prompt."""
        rows = [encode(self.processor, self.messages[uid]) for uid in uids]
        batch = stack(rows, self.processor.pad_id, self.accelerator.device)
        length = self.max_completion_length
        assert length is not None
        with torch.no_grad(), unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:  # type: ignore[arg-type]
            ids = generate(model, batch, self.processor, length, **self._sampling())
        prompt_ids = [row["input_ids"][0].tolist() for row in rows]
        return {"prompt_ids": prompt_ids, "completion_ids": ids.tolist(), "logprobs": None}

    def _sampling(self) -> dict[str, Any]:
        return {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        return {**out, "media": [encode(self.processor, self.messages[row["prompt"]]) for row in inputs]}

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's, with the media of its rows at hand."""
        inputs = dict(inputs)
        self._rows = inputs.pop("media")
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        batch = stack(self._rows, self.processor.pad_id, input_ids.device)
        return *score(model, batch, input_ids[:, -logits_to_keep:]), None
