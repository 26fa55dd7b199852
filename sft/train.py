"""Supervised fine-tuning on media-bearing prompts: loss on the answer tokens alone.

Stock TRL collates images only and trains an audio model deaf without a word; here the collator hands the model every media
tensor and the `use_audio_in_video` flag (tests/sft/test_media_reach_loss.py).

With `sft.packing` the samples of a micro-batch go through the language model as one row without padding (models/packing.py).
The batch, its order and its number of answer tokens are made before that, so packing changes what a step costs and nothing
of what it learns (tests/sft/test_packing.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as HFDataset
from torch.nn.functional import pad
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from models.head_tiles import small_tiles
from models.packing import attach, pack
from models.processor import Processor
from models.resume import Resumable
from runtime.cluster import PLAIN, ClusterConfig, deepspeed_settings
from runtime.errors import StageError
from runtime.logs import MetricsCallback
from runtime.signals import StopTogether
from runtime.trackers.tracker import Tracker
from sft.config import SFTConfig
from tasks.base import Message


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and the answer to learn."""

    messages: Sequence[Message]
    answer: str


class MediaSFTTrainer(Resumable, SFTTrainer):
    """TRL's, going on from its checkpoints with their weights.

    Logs, of the first process, `sft/padding`, the share of padding in what the language model is run on, and
    `sft/row_tokens`, the length of a row there; means over micro-batches.

    Args:
        packing: whether the samples of a micro-batch become one row.
        args: of `SFTTrainer`.
        kwargs: of `SFTTrainer`.
    """

    def __init__(self, *args: Any, packing: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.packing = packing
        if packing:
            assert isinstance(self.model, torch.nn.Module)
            attach(self.model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss of a batch as `Collator` makes it: the mean over the answer tokens of the whole step."""
        mask_BL = inputs["attention_mask"]
        real = int(mask_BL.sum())
        rows, run = (1, real) if self.packing else (len(mask_BL), mask_BL.numel())
        metrics = self._metrics["train" if model.training else "eval"]
        metrics["sft/padding"].append(1 - real / run)
        metrics["sft/row_tokens"].append(run / rows)
        inputs = pack(inputs) if self.packing else inputs
        with small_tiles(mask_BL.device):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class Collator:
    """Turns row numbers into a batch on the device: prompts padded on the left, answers on the right, labels on answers only."""

    def __init__(self, processor: Processor, examples: Sequence[Example], device: torch.device | str = "cpu") -> None:
        self.processor = processor
        self.examples = examples
        self.device = device

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Model input with `labels` (B, P+C); -100 on prompt and padding."""
        chosen = [self.examples[row["row"]] for row in rows]
        batch = self.processor.collate([self.processor.encode(e.messages) for e in chosen], self.device)
        answers = [torch.tensor(self.processor.answer_ids(e.answer), device=self.device) for e in chosen]
        longest = max(map(len, answers))
        ids = torch.stack([pad(a, (0, longest - len(a)), value=self.processor.pad_id) for a in answers])
        mask = torch.stack([pad(torch.ones_like(a), (0, longest - len(a))) for a in answers])
        silent = torch.full_like(batch["input_ids"], -100)
        return batch | {
            "input_ids": torch.cat([batch["input_ids"], ids], 1),
            "attention_mask": torch.cat([batch["attention_mask"], mask], 1),
            "labels": torch.cat([silent, ids.masked_fill(mask == 0, -100)], 1),
        }


def make_trainer(
    name: str,
    model: torch.nn.Module,
    processor: Processor,
    train: Sequence[Example],
    dev: Sequence[Example],
    cfg: SFTConfig,
    folder: Path,
    seed: int,
    cluster: ClusterConfig = PLAIN,
    tracker: Tracker | None = None,
) -> MediaSFTTrainer:
    """TRL's trainer with our collator; `dev` may be empty, and then nothing is evaluated during training."""
    cuda = torch.cuda.is_available()
    bf16 = next(model.parameters()).dtype == torch.bfloat16
    args = TRLConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=cfg.max_steps,
        per_device_train_batch_size=cfg.batch,
        per_device_eval_batch_size=cfg.batch,
        gradient_accumulation_steps=cfg.accumulation,
        learning_rate=cfg.lr,
        lr_scheduler_type="linear",
        warmup_steps=cfg.warmup,
        weight_decay=cfg.weight_decay,
        max_grad_norm=cfg.max_grad_norm,
        activation_checkpointing=cfg.gradient_checkpointing,
        bf16=bf16,
        use_cpu=not cuda,
        eval_strategy="steps" if dev else "no",
        eval_steps=cfg.eval_every,
        save_strategy="steps",
        save_steps=cfg.save_every,
        save_total_limit=2,
        logging_steps=cfg.log_every,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,  # batches are made on the device
        deepspeed=deepspeed_settings(cluster),
        ddp_find_unused_parameters=True,  # a rank whose batch holds no sound has no gradient for the audio tower
    )
    # one collator for both sets: rows of dev are counted on from those of train
    examples = [*train, *dev]
    trainer = MediaSFTTrainer(
        packing=cfg.packing,
        model=model,  # type: ignore[arg-type]
        args=args,
        train_dataset=HFDataset.from_dict({"row": list(range(len(train)))}),
        eval_dataset=HFDataset.from_dict({"row": list(range(len(train), len(examples)))}) if dev else None,
        processing_class=processor.tokenizer,
        data_collator=Collator(processor, examples, args.device),  # type: ignore[arg-type]
        callbacks=[MetricsCallback(folder / "metrics.jsonl", name, tracker=tracker), StopTogether()],
    )
    trainer.remove_callback(PrinterCallback)  # MetricsCallback prints a line for people instead
    return trainer


def train(
    name: str,
    model: torch.nn.Module,
    processor: Processor,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    cfg: SFTConfig,
    folder: Path,
    seed: int,
    cluster: ClusterConfig = PLAIN,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Train (or go on from the newest checkpoint in `folder`) and write `folder/final`; `tracker` gets every row of metrics.jsonl.

    Returns:
        Number of examples and steps, last training loss and last evaluation loss (None without one).

    Raises:
        StageError: when there is nothing to train on, or a signal ended the training before its last step.
    """
    if not train_set:
        raise StageError(f"{name}: no example to train on; look at the rejections of data_synth, or raise its limits")
    trainer = make_trainer(name, model, processor, train_set, dev_set, cfg, folder, seed, cluster, tracker)
    processor.prefetch(example.messages for example in [*train_set, *dev_set])
    trainer.go_on(folder / "checkpoints")
    if trainer.state.global_step < cfg.max_steps:
        raise StageError(
            f"{name}: stopped by a signal at step {trainer.state.global_step}; call the same command to go on"
        )
    trainer.write(processor, folder / "final")
    history = trainer.state.log_history
    return {
        "examples": len(train_set),
        "steps": trainer.state.global_step,
        "loss": next((row["loss"] for row in reversed(history) if "loss" in row), None),
        "eval_loss": next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
    }
