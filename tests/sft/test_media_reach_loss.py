"""Sound and frames reach the loss of supervised training, which stock TRL does not see to."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset as HFDataset
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from models.processor import Processor
from models.shared_prefix import backbone_of
from sft.train import Collator, Example, make_trainer

MEDIA = ("input_features", "pixel_values_videos")


def watch(model: torch.nn.Module) -> list[dict]:
    """What every forward of the backbone is given from now on."""
    calls: list[dict] = []
    backbone_of(model).register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    return calls


def test_every_training_step_hears_and_sees_and_both_towers_learn(
    fresh, processor: Processor, examples: list[Example], settings, tmp_path: Path
) -> None:
    model = fresh()
    calls, learnt = watch(model), Counter()
    for tower in ("audio_tower", "visual"):
        for weights in backbone_of(model).get_submodule(tower).parameters():
            weights.register_post_accumulate_grad_hook(
                lambda w, tower=tower: learnt.update({tower: float(w.grad.abs().sum())})
            )
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    make_trainer("sft", model, processor, examples, [], settings(), tmp_path, 0).train()
    assert len(calls) == 4  # one a step
    for call in calls:
        assert call["use_audio_in_video"] is True
        assert len(call["input_features"]) == 2 and len(call["video_grid_thw"]) == 2  # of both clips of the batch
        assert call["input_features"].std() > 0.1 and call["pixel_values_videos"].std() > 0.1
    assert learnt["audio_tower"] > 0 and learnt["visual"] > 0
    moved = {name for name, weights in model.named_parameters() if not torch.equal(weights, before[name])}
    assert {part for name in moved for part in ("audio_tower", "visual", "language_model") if part in name} == {
        "audio_tower",
        "visual",
        "language_model",
    }


def test_the_loss_changes_when_a_modality_is_taken_away(fresh, processor: Processor, examples: list[Example]) -> None:
    model = fresh().eval()
    batch = Collator(processor, examples)([{"row": 0}, {"row": 1}])
    with torch.no_grad():
        loss = model(**batch).loss
        for name in MEDIA:
            assert (model(**batch | {name: torch.zeros_like(batch[name])}).loss - loss).abs() > 1e-6, name


def test_stock_trl_trains_deaf_on_the_same_conversation(
    fresh, processor: Processor, examples: list[Example], studio_data, tmp_path: Path
) -> None:
    """The upstream defect that `sft/train.py` works round; once TRL passes sound on, this says so by skipping."""
    wav = next(iter((studio_data.root / "clips").glob("*.wav")))
    question = [{"type": "audio", "audio": str(wav)}, {"type": "text", "text": "How does the speaker feel?"}]
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "text", "text": examples[0].answer}]},
    ]
    model = fresh()
    calls = watch(model)
    args = TRLConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=None,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    data = HFDataset.from_list([{"messages": turns}] * 2)
    SFTTrainer(model=model, args=args, train_dataset=data, processing_class=processor.processor).train()  # type: ignore[arg-type]
    if any(call.get("input_features") is not None for call in calls):
        pytest.skip("this TRL passes input_features on: the defect that sft/train.py works round is mended upstream")
    (call,) = calls
    audio = processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert (call["input_ids"] == audio).any()  # placeholders without what they stand for, and no error
