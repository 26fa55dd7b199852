"""The judge of explanations against a real HTTP server in another process, and what its failures do to the advantage."""

import base64
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from evaluation.judge import Item, Judge, JudgeConfig, Opinion, item_of, labels_in, labels_of, read_label
from evaluation.judge_report import Row, cohen_kappa, main, negated, report
from evaluation.score import CONF
from rewards.missing import fill_missing
from rewards.total import reward
from rl.advantage import advantages
from runtime.config import section
from runtime.errors import ConfigError, MediaError, RecordError, StageError
from runtime.files import read_jsonl
from tasks.record import Media, Record, write_records
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Text, Vector

SIDES = ("negative", "neutral", "positive")


@pytest.fixture
def serve(tmp_path):
    """Starts a server; gives its address and the requests it got so far."""
    running = []

    def start(*arguments):
        log = tmp_path / f"requests-{len(running)}.jsonl"
        log.touch()
        program = Path(__file__).with_name("judge_server.py")
        process = subprocess.Popen(
            [sys.executable, str(program), str(log), *arguments], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", lambda: read_jsonl(log)

    yield start
    for process in running:
        process.terminate()
        process.wait()
        process.stdout.close()


def settings(base_url="http://127.0.0.1:9/v1", **changes):
    values = {"base_url": base_url, "model": "j", "api_key_env": None, "temperature": 0.0, "max_tokens": 16, "seed": 7}
    values |= {"concurrency": 4, "retries": 0, "timeout": 10.0, "media": False}
    return JudgeConfig(**(values | {"breaker": 100, "max_failed": 0.9, "min_asked": 1000} | changes))


def items(*explanations, labels=SIDES):
    return [Item(text, labels) for text in explanations]


def counts(**changes):
    return {"asked": 0, "cached": 0, "off_list": 0, "skipped": 0, "failed": {}} | changes


# Opinions


def test_opinions_are_labels_and_what_is_off_the_list_is_none_of_them_and_counted(serve, tmp_path):
    url, requests = serve()
    judge = Judge(settings(url), tmp_path)
    said = judge.opinions(items("a bright smile", "a frown", "hands", "chatty", ""))
    assert said == [
        *map(Opinion, ("positive", "negative", "neutral")),
        Opinion(None, "off_list"),
        Opinion(None, "off_list"),  # "unclear"
    ]
    assert not any(opinion.missing for opinion in said)
    assert judge.counts == counts(asked=5, off_list=2) and len(requests()) == 5


def test_a_request_holds_labels_and_explanation_and_nothing_else_of_the_record(serve, tmp_path, studio, studio_data):
    record = studio_data.split("test")[0]
    url, requests = serve()
    other = replace(record, target=replace(record.target, x=-record.target.x), uid="u", meta={})
    for r in (record, other):
        assert Judge(settings(url), tmp_path / r.uid)([item_of(studio, r, "a smile", None)]) == ["positive"]
    first, second = (request["body"] for request in requests())
    assert first == second  # gold, meta and uid are not in it
    assert set(first) == {"model", "messages", "temperature", "max_tokens", "seed"}
    system, user = first["messages"]
    assert "Labels: negative, neutral, positive\n" in system["content"]
    assert user == {"role": "user", "content": [{"type": "text", "text": "<explanation>a smile</explanation>"}]}
    assert record.views["text"] not in json.dumps(first)


def test_with_media_the_clip_is_sent_as_the_student_is_shown_it(serve, tmp_path, studio, studio_data):
    record = studio_data.split("test")[0]
    url, requests = serve()
    judge = Judge(settings(url, media=True), tmp_path)
    judge([item_of(studio, record, "a smile", studio_data.root)])
    sent = requests()[0]["body"]["messages"][1]["content"]
    assert [part["type"] for part in sent] == ["video_url", "input_audio", "text", "text", "text"]
    clip = (studio_data.root / record.views["video"].path).read_bytes()
    assert sent[0]["video_url"]["url"] == "data:video/mp4;base64," + base64.b64encode(clip).decode()
    assert record.views["text"] in sent[2]["text"] and sent[-1]["text"] == "<explanation>a smile</explanation>"
    assert record.uid not in json.dumps(sent) and Path(record.views["video"].path).name not in json.dumps(sent)
    # other bytes at the same place are another question, the same bytes elsewhere are not
    mine = item_of(studio, record, "a smile", studio_data.root)
    moved, changed = tmp_path / "moved.mp4", tmp_path / "changed.mp4"
    moved.write_bytes(clip)
    changed.write_bytes(clip + b"0")
    for path, asked in ((moved, 1), (changed, 2)):
        judge([replace(mine, clip=({**mine.clip[0], "path": str(path)}, *mine.clip[1:]))])
        assert judge.counts["asked"] == asked


def test_a_clip_that_is_gone_is_named(tmp_path):
    item = Item("a smile", SIDES, ({"type": "video", "path": str(tmp_path / "gone.mp4"), "span": None},))
    with pytest.raises(MediaError, match=r"gone.mp4: cannot be read .*; mend the record's path, or remove it"):
        Judge(settings(), tmp_path)([item])


MOODS = Space(("joy", "rage", "grief"), ("up", "down", "down"))


@pytest.mark.parametrize(
    ("target", "labels", "own"),
    [
        (Scalar(2, -3, 3, 0.2), SIDES, {"positive"}),
        (Class("rage", MOODS), ("joy", "rage", "grief"), {"rage"}),
        (Class("a", Space(("a", "b"))), ("a", "b"), {"a"}),
        (Ordinal(3, ("a", "b", "c", "d")), ("low", "high"), {"high"}),
        (LabelSet(frozenset({"joy", "rage"}), MOODS), ("up", "down"), {"up", "down"}),
        (LabelSet(frozenset(), MOODS), ("up", "down"), set()),
        (IndexSet(frozenset(), 3), ("last", "previous", "earlier", "none"), {"none"}),
        (Vector(("a", "b"), (1.0, 0.0), 0, 5), ("a", "b"), {"a"}),
        (Composite({"note": Text(("x",)), "mood": Scalar(-1, -3, 3)}), SIDES, {"negative"}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_labels_of_every_kind_of_target(target, labels, own):
    assert labels_of(target) == labels and labels_in(target) == own


@pytest.mark.parametrize("target", [Text(("x",)), LabelSet(frozenset(), Space(("a", "b")))], ids=["text", "label_set"])
def test_a_target_without_a_coarse_form_is_refused(target):
    with pytest.raises(
        ConfigError, match=rf"judge: {target.kind} targets .* no coarse labels .*; give the space parents"
    ):
        labels_of(target)


def test_marks_and_case_around_a_label_do_not_count_but_more_words_do():
    labels = ("happy", "Not Happy")
    for text in ("happy", " Happy.", "**happy**", '"HAPPY"\n'):
        assert read_label(text, labels) == "happy"
    assert read_label("not happy", labels) == "Not Happy"
    for text in ("unhappy", "happy or sad", "label: happy", ""):
        assert read_label(text, labels) is None


# The cache


def test_what_was_answered_is_never_asked_again(serve, tmp_path):
    url, requests = serve()
    asked = items("a smile", "a frown", "a smile", "chatty", "silent")
    first = Judge(settings(url), tmp_path / "cache")
    assert first(asked) == ["positive", "negative", "positive", None, None]
    assert first.counts == counts(asked=4, cached=1, off_list=1, failed={"wrote nothing": 1})
    assert first(asked[:4]) == ["positive", "negative", "positive", None] and len(requests()) == 4
    later = Judge(settings(url), tmp_path / "cache")
    assert later(asked[:4]) == ["positive", "negative", "positive", None] and len(requests()) == 4
    assert later.counts == counts(cached=4, off_list=1)
    assert later.opinions(asked[4:]) == [Opinion(None, "wrote nothing")]  # failures are not kept
    assert len(requests()) == 5
    assert later.opinions(asked[:1], fresh=True) == [Opinion("positive")] and len(requests()) == 6
    assert len((tmp_path / "cache" / "judge.jsonl").read_text().splitlines()) == 3  # nor is what was asked afresh


@pytest.mark.parametrize(
    "change", [{"model": "k"}, {"temperature": 0.5}, {"seed": None}, {"max_tokens": 8}], ids=lambda c: next(iter(c))
)
def test_another_judge_is_asked_again(serve, tmp_path, change):
    url, requests = serve()
    for cfg in (settings(url), settings(url, **change), settings(url, concurrency=1)):
        Judge(cfg, tmp_path / "cache")(items("a smile"))
    assert len(requests()) == 2
    Judge(settings(url), tmp_path / "cache")(items("a smile", labels=SIDES[::-1]))
    assert len(requests()) == 3


def test_a_torn_line_costs_one_request_and_spoils_no_other(serve, tmp_path):
    url, requests = serve()
    asked = items("a smile", "a frown")
    for item in asked:  # one after the other, so that the second line is the frown
        Judge(settings(url), tmp_path)([item])
    path = tmp_path / "judge.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert Judge(settings(url), tmp_path)(asked) == ["positive", "negative"]
    assert len(requests()) == 3
    assert Judge(settings(url), tmp_path)(asked) == ["positive", "negative"]
    assert len(requests()) == 3


# Failures


@pytest.mark.parametrize(
    ("text", "reason", "asked"),
    [
        ("broken", "InternalServerError", 3),
        ("busy", "RateLimitError", 3),
        ("refuse", "refused", 1),
        ("silent", "wrote nothing", 1),
        ("garbage", "NotJSON", 3),
        ("plain", "NotAChatCompletion", 3),
        ("shapeless", "NotAChatCompletion", 3),
    ],
)
def test_a_failure_is_a_missing_value_with_its_reason_and_stops_no_other(serve, tmp_path, text, reason, asked):
    url, requests = serve()
    judge = Judge(settings(url, retries=2), tmp_path)
    said = judge.opinions(items(text, "a smile"))
    assert said == [Opinion(None, reason), Opinion("positive")] and said[0].missing
    assert judge.counts == counts(asked=2, failed={reason: 1})
    assert len(requests()) == asked + 1


def test_a_slow_server_is_a_failure_and_one_that_is_not_there_as_well(serve, tmp_path):
    judge = Judge(settings(serve()[0], timeout=0.5), tmp_path)
    assert judge.opinions(items("slow")) == [Opinion(None, "Timeout")]
    assert Judge(settings(), tmp_path).opinions(items("a smile")) == [Opinion(None, "APIConnectionError")]


def test_after_failures_in_a_row_nothing_more_is_asked_in_this_call(serve, tmp_path):
    url, requests = serve()
    judge = Judge(settings(url, breaker=3, concurrency=1), tmp_path)
    said = judge.opinions(items(*(f"broken {i}" for i in range(10))))
    assert [opinion.reason for opinion in said].count("InternalServerError") == 3 and all(o.missing for o in said)
    assert judge.counts == counts(asked=3, skipped=7, failed={"InternalServerError": 3}) and len(requests()) == 3
    assert judge(items("a smile")) == ["positive"]  # the next call tries again


def test_failures_that_are_not_in_a_row_do_not_break_the_call(serve, tmp_path):
    texts = [f"{word} {i}" for word in ("broken", "smile") for i in range(20)]
    judge = Judge(settings(serve()[0], breaker=12, concurrency=1), tmp_path)
    assert judge(items(*texts)) == [None] * 20 + ["positive"] * 20
    assert judge.counts == counts(asked=40, failed={"InternalServerError": 20})


def test_requests_go_out_in_an_order_that_has_nothing_to_do_with_the_batch(serve, tmp_path):
    url, requests = serve()
    texts = [f"smile {i}" for i in range(12)]
    for n, order in enumerate((texts, texts[::-1])):
        Judge(settings(url, concurrency=1), tmp_path / str(n))(items(*order))
    sent = [request["body"]["messages"][1]["content"][0]["text"] for request in requests()]
    assert sent[:12] == sent[12:] and sent[:12] != sorted(sent[:12])


def test_too_many_failures_among_the_latest_requests_stop_the_run_with_the_remedy(serve, tmp_path):
    judge = Judge(settings(serve()[0], min_asked=8, max_failed=0.5), tmp_path)
    assert judge(items(*(f"smile {i}" for i in range(100)))) == ["positive"] * 100
    judge(items(*(f"broken {i}" for i in range(4))))  # half of the latest eight, which is borne
    with pytest.raises(
        StageError,
        match=r"judge 'j': 62% of the latest 8 requests failed, and judge.max_failed=0.5 may; the last one: judge 'j' at .*"
        r"InternalServerError.*it is broken.*; see to the server .*call again to continue",
    ):
        judge(items("broken 4"))


def test_too_few_requests_stop_nothing(serve, tmp_path):
    judge = Judge(settings(serve()[0], min_asked=8, max_failed=0.0), tmp_path)
    assert judge(items(*(f"broken {i}" for i in range(7)))) == [None] * 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_url": "localhost"}, "judge.base_url: begins with http:// or https://; got 'localhost'"),
        ({"breaker": 0}, "judge.breaker: 1 or more failures in a row; got 0; mend the config"),
        ({"max_failed": 1.0}, r"judge.max_failed: a share in \[0, 1\); got 1.0; mend the config"),
        ({"min_asked": 0}, "judge.min_asked: 1 or more requests; got 0; mend the config"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        settings(**change)


def test_the_shipped_config_becomes_typed():
    judge = OmegaConf.merge(OmegaConf.load(CONF / "judge" / "openai.yaml"), {"model": "m"})
    cfg = section(OmegaConf.create({"seed": 3, "judge": judge}), "judge", JudgeConfig)
    assert (cfg.seed, cfg.media, cfg.temperature) == (3, False, 0.0)


# What failures do to the figures: nothing


def test_with_three_requests_in_ten_failing_the_mean_over_the_answered_ones_is_that_of_all(serve, tmp_path):
    rng = random.Random(1)
    true = [rng.random() < 0.4 for _ in range(300)]
    texts = [f"{'a smile' if t else 'a frown'} in clip {i}" for i, t in enumerate(true)]
    judge = Judge(settings(serve("0.3", "5")[0], concurrency=8), tmp_path)
    said = judge(items(*texts))
    heard = [label for label in said if label is not None]
    assert all(label in (None, "positive" if t else "negative") for label, t in zip(said, true, strict=True))
    assert 0.2 < judge.counts["failed"]["InternalServerError"] / 300 < 0.4 and len(heard) + 30 < 300
    ci = binomtest(heard.count("positive"), len(heard)).proportion_ci(0.95)
    assert ci.low <= sum(true) / 300 <= ci.high


WEIGHTS = {"calibrate": 4.0, "judge": 2.0}
JUDGED = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
ALIKE = [0.6] * 8
OPPOSED = [0.55, 0.5, 0.45, 0.8, 0.85, 0.8, 0.5, 0.9]
"""Who explains well answers worse; with all heard the judge outweighs it for all eight."""
FAIL = 0.3


def group_advantages(calibrate, judged_RG):
    """(R, G) unscaled advantages of R repetitions of one group."""
    rows = [
        [reward({"calibrate": c, "judge": j}, WEIGHTS) for c, j in zip(calibrate, judged_G, strict=True)]
        for judged_G in judged_RG
    ]
    alone = [[False] * len(calibrate)] * len(rows)
    return advantages(rows, alone, baseline="shared", scale="none").double().numpy()


def with_failures(fill, repetitions=4000):
    failed = np.random.default_rng(0).random((repetitions, len(JUDGED))) < FAIL
    judged = [[None if f else j for f, j in zip(row, JUDGED, strict=True)] for row in failed]
    return [fill_missing(row, [True] * len(row)) for row in judged] if fill else judged


def within_three_errors(sample_RG, expected_G):
    error = sample_RG.std(0, ddof=1) / len(sample_RG) ** 0.5
    return bool((abs(sample_RG.mean(0) - expected_G) < 3 * error).all())


@pytest.mark.parametrize("calibrate", [ALIKE, OPPOSED], ids=["other parts alike", "other parts opposed"])
def test_with_estimates_in_place_of_failures_the_expected_advantage_is_that_without_any(calibrate):
    true = group_advantages(calibrate, [JUDGED])[0]
    found = group_advantages(calibrate, with_failures(fill=True))
    assert within_three_errors(found, true)
    assert (np.sign(found.mean(0)) == np.sign(true)).all()


def test_leaving_failures_out_shrinks_the_advantage_by_their_share_where_the_other_parts_are_alike():
    true = group_advantages(ALIKE, [JUDGED])[0]
    found = group_advantages(ALIKE, with_failures(fill=False))
    assert within_three_errors(found, (1 - FAIL) * true) and not within_three_errors(found, true)


def test_leaving_failures_out_turns_signs_where_the_other_parts_point_elsewhere():
    true = group_advantages(OPPOSED, [JUDGED])[0]
    without = group_advantages(OPPOSED, [[None] * 8])[0]
    found = group_advantages(OPPOSED, with_failures(fill=False))
    assert within_three_errors(found, (1 - FAIL) * true + FAIL * without)
    assert (np.sign(found.mean(0)) != np.sign(true)).sum() == 5


# The report


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Pitch rising, a high voice", "Pitch falling, a low voice"),
        ("Smiling; Up", "Frowning; Down"),
        ("narrow range, slow and dull", "wide range, fast and bright"),
        ("upright, highly, smiled", "upright, highly, smiled"),
    ],
)
def test_cue_words_are_exchanged_whole(text, other):
    assert negated(text) == other and negated(other) == text


def test_kappa_is_that_of_scikit_learn_and_none_is_a_category():
    rng = np.random.default_rng(0)
    for categories in (2, 3, 5):
        a = rng.integers(categories, size=60)
        b = np.where(rng.random(60) < 0.5, a, rng.integers(categories, size=60))
        names = [None, "a", "b", "c", "d"]
        ours = cohen_kappa([names[i] for i in a], [names[i] for i in b])
        assert ours == pytest.approx(cohen_kappa_score(a, b))
    assert cohen_kappa(["a", "a"], ["a", "a"]) == 0.0 and cohen_kappa(["a", "b"], ["b", "a"]) == -1.0


def rows(*pairs, labels=SIDES, clips=False):
    clip = {"type": "text", "text": "clip"}
    return [
        Row(f"g{i}", Item(text, labels, ({**clip, "text": f"clip {i}"},) if clips else ()), reference)
        for i, (text, reference) in enumerate(pairs)
    ]


def value(result, name):
    return (result["agreement"] | result["probes"])[name]


def test_a_sound_judge_is_reported_as_one(serve, tmp_path):
    url, requests = serve()
    mine = rows(("a smile", "positive"), ("a bright smile", "positive"), ("low", "negative"), ("hands", "neutral"))
    result = report(Judge(settings(url), tmp_path), mine, resamples=20)
    assert [value(result, n)["value"] for n in ("accuracy", "kappa", "swap", "negation", "repeat")] == [1, 1, 1, 1, 0]
    assert [value(result, n)["n"] for n in ("accuracy", "kappa", "swap", "negation", "repeat")] == [4, 4, 4, 3, 4]
    assert result["confusion"]["positive"] == {"positive": 2} and (result["n"], result["missing"]) == (4, 0)
    # 4 at home, 3 negated, 4 afresh; the swapped texts are known
    assert result["counts"] == counts(asked=11, cached=4) and len(requests()) == 11


def test_with_clips_the_swapped_texts_are_asked_beside_the_other_clip(serve, tmp_path):
    url, requests = serve()
    mine = rows(("a grin", "positive"), ("a scowl", "negative"), clips=True)  # no words that `negation` exchanges
    assert value(report(Judge(settings(url), tmp_path), mine, resamples=5), "swap")["value"] == 1
    sent = [[part["text"] for part in request["body"]["messages"][1]["content"]] for request in requests()]
    assert ["clip 0", "<explanation>a scowl</explanation>"] in sent and [
        "clip 1",
        "<explanation>a grin</explanation>",
    ] in sent


def test_an_unsound_judge_is_reported_as_one(serve, tmp_path):
    """It takes the label that it is told first, whatever the text; four off-list answers and one of six missing."""
    url, _ = serve()
    mine = rows(
        *[(f"wobbly smile {i}", "positive") for i in range(2)],
        *[(f"wobbly frown {i}", "negative") for i in range(2)],
        ("chatty smile", "positive"),
        ("broken", "positive"),
    )
    result = report(Judge(settings(url), tmp_path), mine, resamples=20)
    assert (result["n"], result["missing"]) == (6, 1)
    assert value(result, "accuracy")["value"] == pytest.approx(2 / 5)
    assert result["confusion"] == {"negative": {"negative": 2}, "positive": {"negative": 2, "off_list": 1}}
    assert value(result, "repeat") | {"lo": 0, "hi": 0} == {"value": 4 / 5, "lo": 0, "hi": 0, "n": 5}  # chatty stays
    assert value(result, "negation")["value"] == 0


def test_a_judge_that_is_never_heard_is_no_result(tmp_path):
    with pytest.raises(
        StageError, match=r"no opinion on any of 1 explanations; failures: \{'APIConnectionError': 1\}; mend base_url"
    ):
        report(Judge(settings(), tmp_path), rows(("a smile", "positive")))


@pytest.fixture
def files(tmp_path):
    """Records with gold, and explanations, one of them with the label of a person."""
    gold = {"a": 2.0, "b": -1.0, "c": 0.0}
    records = [
        Record(uid=u, task="studio", split="test", group=u, views={"text": u}, target=Scalar(x, -3, 3, 0.2))
        for u, x in gold.items()
    ]
    clip = replace(records[0], uid="v", group="v", split="dev", views={"video": Media("video", "v.mp4")})
    write_records(tmp_path / "R.jsonl", [*records, clip])
    lines = [
        {"uid": "a", "explanation": "a smile"},
        {"uid": "b", "explanation": "a bright smile", "label": "positive"},
        {"uid": "c", "explanation": "a frown", "label": None},
        {"uid": "v", "explanation": "a frown"},
    ]
    write_lines(tmp_path, lines)
    return tmp_path


def write_lines(folder, lines):
    (folder / "E.jsonl").write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))


def arguments(folder, url="http://127.0.0.1:9/v1", *more):
    named = {"records": "R.jsonl", "explanations": "E.jsonl", "out": "out/J.json"}
    judge = [f"base_url={url}", "model=j", "api_key_env=null", "retries=0"]
    return ["task=studio", *(f"{k}={folder / v}" for k, v in named.items()), *judge, "resamples=20", *more]


def test_the_command_writes_and_prints_the_report(serve, files, capsys):
    url, requests = serve()
    result = main(arguments(files, url))
    assert json.loads((files / "out" / "J.json").read_text()) == result
    assert result["reference"] == {"person": 1, "gold": 2} and result["n"] == 3
    assert result["agreement"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert result["judge"] == {
        "base_url": url,
        "model": "j",
        "temperature": 0,
        "max_tokens": 16,
        "seed": 0,
        "media": False,
    }
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:6]] == ["accuracy", "kappa", "swap", "negation", "repeat"]
    assert printed[1].split()[1] == "0.667" and printed[-1].startswith("3 explanations, 0 without an opinion; asked 7")
    assert len(requests()) == 7 and (files / "out" / "judge.jsonl").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["seed"],
            r"seed: settings are key=value; write task=T records=R.jsonl explanations=E.jsonl out=J.json base_url",
        ),
        (["modle=x"], "config: unknown key 'modle' \\(did you mean 'model'\\?\\)"),
        (["split=all"], "split: one of train, dev, test; got 'all'; mend the command"),
        (["resamples=0"], "resamples: a whole number from 1 on; got '0'; mend the command"),
        (["max_tokens=many"], r"judge.max_tokens: Value 'many' .* could not be converted to Integer"),
        (["media=true"], "root: required with media=true, the folder below which the media lie; add root=FOLDER"),
        (["split=train"], r"none of 4 explanations is about one of 0 records of split=train .*; choose another split"),
        (["explanations=gone.jsonl"], "gone.jsonl: there is no such file of explanations; mend the path"),
    ],
)
def test_a_wrong_command_is_named(files, changes, message):
    with pytest.raises((ConfigError, RecordError), match=message):
        main(arguments(files, "http://127.0.0.1:9/v1", *changes))


def test_what_is_not_given_is_named():
    with pytest.raises(ConfigError, match="records, explanations, out, task: required and not given; write task=T"):
        main(["model=j"])


def test_the_model_is_to_be_stated(files):
    with pytest.raises(ConfigError, match="Missing mandatory value: model; state it"):
        main([a for a in arguments(files) if a != "model=j"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"E.jsonl:1: not JSON \(.*\); mend or remove the line"),
        (
            "[]",
            r"E.jsonl:1: an object with the strings uid and explanation, and label or none, is required; got '\[\]'",
        ),
        ({"uid": "a"}, r"E.jsonl:1: an object with the strings uid and explanation"),
        ({"uid": "a", "explanation": "x", "label": 1}, r"E.jsonl:1: an object with the strings uid and explanation"),
        ({"uid": "z", "explanation": "x"}, r"E.jsonl:1: no record has the uid 'z'; remove the line"),
        ({"uid": "a", "explanation": "x", "label": "joy"}, r"of 'a': label is one of negative, .*; got 'joy'; mend"),
    ],
)
def test_a_wrong_line_is_named(files, line, message):
    write_lines(files, [line])
    with pytest.raises(RecordError, match=message):
        main(arguments(files))


def test_wrong_files_are_named(files):
    write_lines(files, [{"uid": "a", "explanation": "x"}] * 2)
    with pytest.raises(RecordError, match=r"E.jsonl:2: uid 'a' occurs twice; keep one explanation a record"):
        main(arguments(files))
    (files / "E.jsonl").write_bytes(b"\xff")
    with pytest.raises(RecordError, match=r"E.jsonl: byte 0 is not UTF-8; save the file as UTF-8"):
        main(arguments(files))


def test_the_module_is_the_command(files):
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.judge", *arguments(files), "split=none"],
        capture_output=True,
        text=True,
        cwd=CONF.parent,
        check=False,
    )
    assert (
        done.returncode == 1 and done.stderr == "error: split: one of train, dev, test; got 'none'; mend the command\n"
    )
