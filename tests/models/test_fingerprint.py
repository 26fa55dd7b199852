"""A fingerprint tells apart what a model was given, and nothing else: not the order, the padding or the formulation."""

import pytest
import torch
from cases import KINDS, Case

from models.engine.hf import HFEngine
from models.fingerprint import Fingerprint, Layout, of_tensors, watch
from models.shared_prefix import backbone_of

MEDIA = {  # kinds of clips that a prompt of each case holds, and whether its sound lies in the film
    "audio": (["audio"], []),
    "silent video": (["video"], [False]),
    "video with sound": (["audio", "video"], [True]),
    "text": ([], []),
    "text model": ([], []),
}


def run(case: Case, prompts=None, change=lambda batch: batch) -> Fingerprint:
    """What the backbone was given in one plain forward."""
    with watch(case.model) as sight, torch.no_grad():
        case.model(**change(case.processor.collate(prompts or case.prompts)))
    return sight.whole()


@pytest.mark.parametrize("kind", KINDS)
def test_what_enters_the_backbone_is_seen_for_each_prompt(case, kind):
    one = case(kind)
    engine = HFEngine(one.model, one.processor)
    engine.prefill(one.prompts)
    kinds, flags = MEDIA[kind]
    assert len(engine.fingerprints) == 2
    for prompt, found in zip(one.prompts, engine.fingerprints, strict=True):
        assert [name for name, clips in found.clips.items() if len(clips) == 1] == kinds
        assert [layout.use_audio_in_video for layout in found.layout] == flags
        assert found == of_tensors(one.processor.collate([prompt]))  # alone, unpadded, without a model
        for clip in found.clips["audio"]:
            assert clip.size == prompt.media["feature_attention_mask"].sum()
        for clip in found.clips["video"]:
            assert clip.size == prompt.media["video_grid_thw"].prod()
    if kinds:
        assert engine.fingerprints[0] != engine.fingerprints[1]


def test_images_are_seen_beside_videos(case, tmp_path):
    from PIL import Image

    Image.new("RGB", (84, 56), (200, 30, 90)).save(tmp_path / "a.png")
    one = case("video with sound")
    ((turn,),) = [prompt.messages for prompt in one.prompts[:1]]
    picture = {"type": "image", "path": str(tmp_path / "a.png"), "span": None}
    mixed = one.processor.encode([{**turn, "content": [picture, *turn["content"]]}])
    engine = HFEngine(one.model, one.processor)
    engine.prefill([one.prompts[1], mixed])
    without, with_image = engine.fingerprints
    assert without.clips["image"] == ()
    assert [clip.size for clip in with_image.clips["image"]] == [4 * 6]  # patches of 14 x 14
    assert with_image == of_tensors(one.processor.collate([mixed]))


@pytest.mark.parametrize("kind", ["audio", "video with sound"])
def test_the_order_of_prompts_is_kept_and_nothing_else_depends_on_it(case, kind):
    one = case(kind)
    there, back = run(one), run(one, one.prompts[::-1])
    assert there != back
    for name, clips in there.clips.items():
        assert clips == back.clips[name][::-1]


def swap_two_patches(batch):
    patches = batch["pixel_values_videos"].clone()
    other = int((patches != patches[0]).any(1).nonzero()[0])
    patches[[0, other]] = patches[[other, 0]]
    return batch | {"pixel_values_videos": patches}


def turn_one_bit(batch):
    features = batch["input_features"].clone()
    features.view(torch.int32)[0, 0, 0] ^= 1
    return batch | {"input_features": features}


def other_flag(batch):
    return batch | {"use_audio_in_video": False}


def other_speed(batch):
    return batch | {"video_second_per_grid": 2 * batch["video_second_per_grid"]}


def more_padding(batch):
    features, mask = (torch.nn.functional.pad(batch[n], (0, 7)) for n in ("input_features", "feature_attention_mask"))
    return batch | {"input_features": features, "feature_attention_mask": mask}


def test_the_smallest_change_is_seen(case):
    one = case("video with sound")
    plain = run(one)
    assert run(one, change=more_padding) == plain  # which no tower sees
    for change, kind in ((swap_two_patches, "video"), (turn_one_bit, "audio")):
        found = run(one, change=change)
        assert found.clips[kind][0].size == plain.clips[kind][0].size
        assert [found.clips[kind][i] == plain.clips[kind][i] for i in (0, 1)] == [False, True]
        others = [name for name in plain.clips if name != kind]
        assert all(found.clips[name] == plain.clips[name] for name in others)
        assert found.layout == plain.layout
    for change in (other_flag, other_speed):
        found = run(one, change=change)
        assert found.clips == plain.clips
        assert found.layout != plain.layout


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_every_width_of_number_has_a_checksum(dtype):
    patches = torch.arange(24).view(8, 3).to(dtype)
    grid = torch.tensor([[1, 2, 2], [1, 2, 2]])

    def found(patches):
        batch = {"pixel_values": patches, "image_grid_thw": grid}
        return of_tensors(batch).clips["image"]

    first, second = found(patches)
    assert first.size == second.size == 4
    assert first.checksum != second.checksum
    patches[7, 2] += 1
    assert found(patches)[0] == first
    assert found(patches)[1] != second


def test_clips_that_were_not_given_are_missing_from_the_last_prompts(case):
    one = case("audio")

    class Half(type(one.processor)):
        def collate(self, prompts, device="cpu"):
            return super().collate(prompts[:1], device)

    one.processor.__class__ = Half
    engine = HFEngine(one.model, one.processor)
    engine.prefill(one.prompts)
    assert [len(found.clips["audio"]) for found in engine.fingerprints] == [1, 0]


def test_what_is_run_beside_the_loss_can_be_left_out(case):
    one = case("video with sound")
    with watch(one.model, learning=True) as sight:
        run(one)
        assert not any(sight.whole().clips.values())
        one.model(**one.processor.collate(one.prompts[:1]))
    assert [len(clips) for clips in sight.whole().clips.values()] == [1, 0, 1]


def test_a_model_is_left_as_it_was(case):
    one = case("video with sound")
    backbone = backbone_of(one.model)
    before = dict(vars(backbone))
    with watch(one.model) as sight:
        assert set(vars(backbone)) - set(before) == {
            *("get_audio_features", "get_image_features", "get_video_features", "get_rope_index")
        }
    assert vars(backbone) == before
    with pytest.raises(KeyError, match="here"), watch(one.model):
        raise KeyError("here")
    assert vars(backbone) == before
    run(one)
    assert sight.whole() == Fingerprint({"audio": (), "image": (), "video": ()}, ())  # it has stopped looking
    assert Layout(True, 0.5) != Layout(False, 0.5)
