"""The exported folder is read back by `datasets`, trained on by TRL as it is, and says on its card where it comes from."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from finished_run import rejection, synth, write_run
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from verbs import call

from data_synth.card import card
from data_synth.export import export, main
from data_synth.output import read_output
from models.tiny import CORPUS, build_tokenizer
from runtime.errors import ConfigError, StageError
from tasks.record import Media
from tasks.target import Scalar, target_from_json

GOOD = "<discriminate>positive: a warm word</discriminate><calibrate>said plainly</calibrate><answer>1.8</answer>"
TEXT_ONLY = "task.views=[text]"


@pytest.fixture
def run(remark, tmp_path):
    """Makes a run of two chains, one of them rewritten, and two rejections; `views` of the records."""

    def make(task: str = "task=studio", **views):
        records = [remark(uid=f"r-{i}", views={**views, "text": f"day {i}"}) for i in range(4)]
        chains = [
            replace(records[0], rationale=GOOD, meta={"synth": synth(pass_rate=0.5)}),
            replace(records[1], rationale=GOOD.replace("1.8", "1.4"), meta={"synth": synth("rewrite", pass_rate=0.0)}),
        ]
        rejected = [rejection("r-2", "wrong verdict", GOOD), rejection("r-3", "fault: empty", "")]
        return write_run(tmp_path / "run", records, chains, rejected, task=task)

    return make


def load(folder: Path, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]  # type: ignore[index]


def test_rows_come_back_with_prompt_completion_and_where_they_come_from(run, tmp_path):
    out = read_output(run(audio=Media("audio", "clips/a.wav"), video=Media("video", "clips/a.mp4", (0.5, 2.0))))
    assert export(out, tmp_path / "ds", None) == 2
    found = load(tmp_path / "ds", tmp_path)
    assert len(found) == 2
    row = found[0]
    assert [row[k] for k in ("uid", "group", "coarse", "step", "pass_rate")] == ["r-0", "r-0", "positive", "write", 0.5]
    assert row["parts"] == {
        "format": 1.0,
        "discriminate": 1.0,
        "calibrate": 1.0,
        "agreement": 1.0,
        "explanation": None,
        "evidence": None,
    }
    assert target_from_json(json.loads(row["target"])) == Scalar(2.0, -3, 3, 0.2)
    assert [m["role"] for m in row["prompt"]] == ["user"]
    video, audio, text, question = row["prompt"][0]["content"]
    assert video == {"type": "video", "text": None, "path": "clips/a.mp4", "span": [0.5, 2.0]}
    assert audio == {"type": "audio", "text": None, "path": "clips/a.wav", "span": None}
    assert text["text"] == "text: day 0\n" and "from -3 to 3" in question["text"]
    assert row["completion"] == [
        {"role": "assistant", "content": [{"type": "text", "text": GOOD, "path": None, "span": None}]}
    ]
    assert found[1]["step"] == "rewrite"
    written = b"".join(p.read_bytes() for p in (tmp_path / "ds").rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in written  # no absolute path


def test_a_plain_sft_trainer_learns_the_completion_of_a_text_task(run, tmp_path):
    export(read_output(run(TEXT_ONLY)), tmp_path / "ds", None)
    found = load(tmp_path / "ds", tmp_path)
    assert found[0]["completion"] == [{"role": "assistant", "content": GOOD}]
    tokenizer = build_tokenizer(CORPUS)
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    opening = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    tokenizer.chat_template = f"{{% for m in messages %}}{turn}{{% endfor %}}{opening}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    args = SFTConfig(
        output_dir=str(tmp_path / "sft"), max_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no"
    )
    trainer = SFTTrainer(LlamaForCausalLM(config), args=args, train_dataset=found, processing_class=tokenizer)
    assert trainer.train().global_step == 1
    batch = next(iter(trainer.get_train_dataloader()))
    learnt = [
        str(tokenizer.decode(ids[labels != -100])).removesuffix("\n").removesuffix("<|im_end|>")
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    assert sorted(learnt) == sorted([GOOD, GOOD.replace("1.8", "1.4")])


def test_the_card_tells_licence_teacher_settings_and_what_the_filter_did(run):
    out = read_output(run())
    text = card(out, 2, "cc-by-4.0")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and head["language"] == ["en"] and head["size_categories"] == ["n<1K"]
    for words in (
        "**Licence of the source corpus**: cc-by-4.0.",
        "1 of them were written once more with the label at hand",
        "| base_url | http://127.0.0.1:8901/v1 |",
        "4 records were asked about, 2 chains accepted (50.0%). Requests: 9. Tokens: 1234.",
        "| wrong verdict | 1 |\n| fault | 1 |",
        "| positive | 4 | 2 |",
        "| min_calibrate | 0.9 |",
    ):
        assert words in text, words


def test_a_licence_that_nobody_stated_is_unknown_and_the_card_says_what_to_do(run):
    text = card(read_output(run()), 2, None)
    assert "license: unknown" in text and "**Licence of the source corpus**: unknown: state it with licence=." in text


@pytest.mark.parametrize("rows, word", [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (2_000_000, "n>1M")])
def test_sizes_are_in_the_words_of_the_hub(run, rows, word):
    assert f"- {word}\n" in card(read_output(run()), rows, None)


def test_the_command_writes_the_folder_and_leaves_nothing_beside_it(run, tmp_path):
    folder, out = run(TEXT_ONLY), tmp_path / "new" / "ds"
    arguments = [f"hydra.run.dir={folder}", f"out={out}", "licence=mit"]
    done = call("data_synth.export", arguments, tmp_path / "log", {})
    assert done.code == 0 and done.text.endswith(f"2 chains in {out}\n"), done.text
    assert [p.name for p in out.parent.iterdir()] == ["ds"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
    ]
    again = call("data_synth.export", arguments, tmp_path / "log", {})
    assert again.code == 1
    assert again.text == f"error: out: {out} holds something already; name another folder, or empty this one\n"


def test_a_folder_that_is_not_named_and_a_run_without_chains_are_refused(run, tmp_path):
    with pytest.raises(
        ConfigError, match=r"out: required and not given; write run.name=NAME out=FOLDER \[licence=cc-by-4.0\]"
    ):
        main(["run.name=a"])
    folder = run()
    (folder / "synth" / "chains.jsonl").write_text("")
    with pytest.raises(StageError, match="no chain was accepted, so there is nothing to export; see why in"):
        export(read_output(folder), tmp_path / "ds", None)
    assert not (tmp_path / "ds").exists()
    (tmp_path / "ds").write_text("a file")
    with pytest.raises(ConfigError, match="holds something already"):
        export(read_output(folder), tmp_path / "ds", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds", "run"]
