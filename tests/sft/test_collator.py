"""Batches of supervised training: labels on the answer alone."""

import torch

from models.processor import Processor
from sft.train import Collator, Example


def test_labels_are_the_answer_token_by_token_and_nothing_else(processor: Processor, examples: list[Example]) -> None:
    rows = [4, 0, 1]
    batch = Collator(processor, examples)([{"row": row} for row in rows])
    prompts = [processor.encode(examples[row].messages).ids.tolist() for row in rows]
    answers = [processor.answer_ids(examples[row].answer) for row in rows]
    before, after = max(map(len, prompts)), max(map(len, answers))
    assert len({len(p) for p in prompts}) > 1 and len({len(a) for a in answers}) > 1  # padding on both sides
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape == (3, before + after)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        front, back = before - len(prompt), after - len(answer)
        assert (
            batch["input_ids"][i].tolist() == [processor.pad_id] * front + prompt + answer + [processor.pad_id] * back
        )
        assert batch["attention_mask"][i].tolist() == [0] * front + [1] * (len(prompt) + len(answer)) + [0] * back
        assert batch["labels"][i].tolist() == [-100] * before + answer + [-100] * back
        assert answer[-1] == processor.eos_ids[0]  # when to stop is learnt, too


def test_the_batch_carries_the_media_of_its_rows_in_their_order(processor: Processor, examples: list[Example]) -> None:
    batch = Collator(processor, examples)([{"row": 3}, {"row": 0}])
    for i, row in enumerate((3, 0)):
        media = processor.encode(examples[row].messages).media
        frames = media["input_features"].shape[-1]
        assert torch.equal(batch["input_features"][i, :, :frames], media["input_features"][0])
        assert batch["video_grid_thw"][i].tolist() == media["video_grid_thw"][0].tolist()
    assert batch["use_audio_in_video"] is True


def test_the_loss_is_the_mean_negative_log_probability_of_the_answer_tokens(
    fresh, processor: Processor, examples
) -> None:
    model = fresh().eval()
    batch = Collator(processor, examples)([{"row": 0}, {"row": 5}])
    with torch.no_grad():
        loss = model(**batch).loss
        logps = []
        for row in (0, 5):  # each alone, without padding
            prompt = processor.encode(examples[row].messages)
            answer = torch.tensor(processor.answer_ids(examples[row].answer))
            alone = processor.collate([prompt])
            alone["input_ids"] = torch.cat([alone["input_ids"], answer[None]], 1)
            alone["attention_mask"] = torch.ones_like(alone["input_ids"])
            said = model(**alone).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
            logps.append(said.gather(1, answer[:, None])[:, 0])
    torch.testing.assert_close(loss, -torch.cat(logps).mean(), rtol=1e-5, atol=1e-5)


def test_a_batch_is_made_on_the_device(processor: Processor, examples: list[Example]) -> None:
    batch = Collator(processor, examples, "meta")([{"row": 3}, {"row": 0}])
    assert {"labels", "pixel_values_videos", "input_features"} < batch.keys()
    assert {tensor.device.type for tensor in batch.values() if isinstance(tensor, torch.Tensor)} == {"meta"}
