"""Each benchmark at tiny size: its sides give the same numbers, and where they do not, nothing is timed."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import device, engines, group, mel, naive, sft, step
from benchmarks.scene import FULL, SMOKE, Scene, make_scene
from benchmarks.timing import SAME, Comparison, Limit, Result, UnequalError, largest, measure, relative
from models import tiny
from runtime.errors import ConfigError

MAKERS = {
    "scoring": (group.scoring, 2),
    "sampling": (group.sampling, 2),
    "growth": (group.growth, 2),
    "engines": (engines.engines, 1),
    "sft": (sft.packing, 1),
    "mel": (mel.mel, 1),
}
"""By name, with the number of comparisons."""


@pytest.fixture(scope="module", autouse=True)
def no_vllm() -> Iterator[None]:
    """It has tests of its own (tests/vllm_engine), and takes long to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "find_spec", lambda name: None)
        patch.setattr(command, "find_spec", lambda name: None)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(SMOKE, tmp_path_factory.mktemp("scene"))


def spoilt(comparison: Comparison, way: str, key: str) -> Comparison:
    """One whose way returns a number that is off by a tenth of the largest, or a token that is another one."""

    def wrong() -> Result:
        result = dict(comparison.ways[way]())
        numbers = result[key].clone()
        numbers.view(-1)[0] += 0.1 * numbers.abs().max() if numbers.is_floating_point() else 1
        return result | {key: numbers}

    return dataclasses.replace(comparison, ways={**comparison.ways, way: wrong})


@pytest.mark.parametrize("name", MAKERS)
def test_the_sides_agree_and_one_that_does_not_is_refused(scene: Scene, name: str) -> None:
    make, count = MAKERS[name]
    comparisons = make(scene)
    assert len(comparisons) == count
    for comparison in comparisons:
        timing = measure(comparison, 1)
        assert list(timing.seconds) == list(comparison.ways) and len(comparison.ways) >= 2
        assert timing.distances.keys() == comparison.limits.keys()
        for way in list(comparison.ways)[1:]:
            for key in comparison.limits:
                with pytest.raises(UnequalError, match=f"{key} of '{way}' and "):
                    spoilt(comparison, way, key).check()


def test_scoring_behind_the_wrong_clip_is_noticed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    right, other = group.score_shared, scene.prompt(SMOKE.seconds[1], number=1)
    monkeypatch.setattr(group, "score_shared", lambda model, scene, prompt, ids: right(model, scene, other, ids))
    for comparison in group.scoring(scene):
        with pytest.raises(UnequalError, match="logps of 'shared'"):
            comparison.check()


def test_whole_steps_of_both_trainers_agree(scene: Scene) -> None:
    whole, *parts = step.whole_step(scene)
    assert [len(t.seconds) for t in (whole, *parts)] == [2] * (1 + len(step.PHASES))
    assert whole.distances.keys() == step.LIMITS.keys()
    for way in whole.seconds:
        assert 0 < sum(part.seconds[way] for part in parts) <= whole.seconds[way]


def test_a_port_that_is_deaf_is_no_yardstick(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real = naive.encode

    def deaf(processor, messages):
        batch = real(processor, messages)
        return batch | {"input_features": torch.zeros_like(torch.as_tensor(batch["input_features"]))}

    monkeypatch.setattr(naive, "encode", deaf)
    with pytest.raises(UnequalError, match="whole step: logps of 'ours' and 'naive port' lie"):
        step.whole_step(scene)


def test_the_naive_port_encodes_each_row_twice_and_ours_each_prompt_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rows = naive.encode, []
    monkeypatch.setattr(naive, "encode", lambda *given: rows.append(1) or real(*given))
    own = make_scene(SMOKE, scene.folder)
    step.whole_step(own)
    assert len(rows) == 2 * SMOKE.steps * SMOKE.prompts * SMOKE.group
    silenced = 2 * SMOKE.prompts  # the parity gate looks at the first step with the sound, then the picture, blanked
    assert own.processor.encodings == SMOKE.steps * SMOKE.prompts + silenced


def test_ways_take_turns_and_the_median_counts() -> None:
    calls, now = [], iter(range(100))

    def way(name: str) -> Callable[[], Result]:
        return lambda: calls.append(name) or {"x": torch.zeros(1)}

    ticks = iter([0, 5, 5, 6, 6, 7, 7, 9, 9, 109, 109, 112])  # a: 5, 1, 100; b: 1, 2, 3
    timing = measure(Comparison("c", {"a": way("a"), "b": way("b")}, {"x": SAME}), 3, clock=lambda: next(ticks))
    assert calls == ["a", "b"] * 4 and next(now) == 0
    assert timing.seconds == {"a": 5, "b": 2} and timing.ratio("b") == 2.5
    assert timing.lines()[1].split("|")[2:5] == [f" {'b':24} ", f" {2.0:8.3f} ", f" {'2.5x':>6} "]


def test_what_is_not_a_number_or_of_another_shape_is_not_equal() -> None:
    def check(a: list[float], b: list[float], limit: Limit) -> None:
        ways = {"a": lambda: {"x": torch.tensor(a)}, "b": lambda: {"x": torch.tensor(b)}}
        Comparison("c", ways, {"x": limit}).check()

    check([3.0, 4.0], [3.0, 4.5], Limit(relative, 0.1))
    for a, b, limit, distance in (
        ([3.0, 4.0], [3.0, 4.5], Limit(relative, 0.09), "1.0e-01"),
        ([1.0], [float("nan")], Limit(largest, 1.0), "nan"),
        ([1.0], [1.0, 1.0], Limit(largest, 1.0), "inf"),
    ):
        with pytest.raises(UnequalError, match=f"c: x of 'b' and 'a' lie {distance} apart, allowed is"):
            check(a, b, limit)


def test_the_command_prints_a_row_for_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(["growth", "mel", "engines"], SMOKE, tmp_path)
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + (2 + 4) + 3 + 2
    prompt = len(make_scene(SMOKE, tmp_path).prompt(SMOKE.seconds[2]).ids)
    tokens = (prompt + 8 * SMOKE.completion) / (prompt + 2 * SMOKE.completion)
    assert f"P = {prompt}, G = 2 to 8: " in said and f" times the time, {tokens:.2f} the tokens, " in said
    assert "vllm: not run: vllm is not installed" in said


def test_the_bound_counts_every_multiplication_of_the_language_model(scene: Scene) -> None:
    config, length = scene.model.config.get_text_config(), SMOKE.completion
    flops = {"linear": 0, "attention": 0}

    def linear(layer, _, out) -> None:
        flops["linear"] += 2 * layer.in_features * out.numel()

    def attention(layer, args, kwargs, out) -> None:
        tokens = kwargs["hidden_states"].shape[1]
        flops["attention"] += 4 * layer.head_dim * config.num_attention_heads * tokens * (tokens + 1) // 2

    model = copy.deepcopy(scene.model)
    lm = model.base_model.get_submodule("language_model")
    for module in lm.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
    for layer in lm.layers:
        layer.self_attn.register_forward_hook(attention, with_kwargs=True)
    prompt = scene.prompt(SMOKE.seconds[1])
    with torch.no_grad():
        naive.score(
            group.scorer(dataclasses.replace(scene, model=model)), group.rows_of(scene, prompt, 1), scene.completions(1)
        )
    tokens = len(prompt.ids) + length
    whole = flops["linear"] + flops["attention"] + 2 * tokens * config.vocab_size * config.hidden_size
    assert group.operations(scene, len(prompt.ids), 1, rows=True) == whole
    saved = 2 * len(prompt.ids) * config.vocab_size * config.hidden_size  # the head on the prompt
    assert group.operations(scene, len(prompt.ids), 1, rows=False) == whole - saved
    assert group.operations(scene, len(prompt.ids), 3, rows=True) == 3 * whole


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["scorign"])
    assert "unknown name 'scorign'; choose from step, scoring, sampling" in capsys.readouterr().err


def test_prompts_at_full_size_are_as_long_as_they_are_said_to_be(tmp_path: Path) -> None:
    full = make_scene(FULL, tmp_path)
    assert [len(full.prompt(seconds).ids) for seconds in FULL.seconds] == [243, 716, 1348]
    assert int(torch.isin(full.prompt(8.0).ids, torch.tensor(device.media_ids(full))).sum()) == 632


def test_the_phases_of_a_step_are_measured_on_any_device(scene: Scene) -> None:
    own = make_scene(SMOKE, scene.folder)
    meter, tokens = device.measure(own, device.grpo)
    assert set(meter.found) == {"encode", "prefill", "decode", "score", "backward", "optimizer"}
    use, size = meter.found, own.size
    assert all(u.seconds > 0 and u.peak_bytes == 0 for u in use.values())
    # linear layers alone: 2 operations a weight and token
    lm = own.model.base_model.get_submodule("language_model")
    layers = sum(m.weight.numel() for m in lm.modules() if isinstance(m, torch.nn.Linear))
    head = own.model.get_output_embeddings().weight.numel()
    rows, written = size.prompts * size.group, size.prompts * size.group * size.completion
    assert use["prefill"].flops == 2 * layers * tokens["prefill"]
    assert use["decode"].flops == 2 * (layers + head) * (written - rows) + 2 * head * rows
    assert use["score"].flops == 2 * layers * tokens["score"] + 2 * head * written
    assert use["backward"].flops == 2 * use["score"].flops
    assert use["optimizer"].flops == 0
    assert tokens["score"] == tokens["prefill"] + written
    found = device.report(own)
    assert [line.split("|")[1:3] for line in found[2:]].count([" SFT ", " encode "]) == 1
    assert len(found) == 2 + 6 + 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_the_big_model_asks_for_a_gpu() -> None:
    with pytest.raises(
        ConfigError, match=r"--device cuda: torch .* finds no CUDA device here; run it on a machine with one"
    ):
        command.main(["--device", "cuda"])


def test_the_big_model_has_the_size_of_the_real_thinker() -> None:
    with torch.device("meta"):
        model = device.Qwen2_5OmniThinkerForConditionalGeneration(device.seven_b(tiny.build_tokenizer(tiny.CORPUS)))
    assert sum(p.numel() for p in model.parameters()) == 8_931_813_888
