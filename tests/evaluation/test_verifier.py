"""Verifiers: a linear one that is trained, measured, saved and loaded; sequence classifiers of transformers; the cache."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import f1_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from evaluation.verifier import __main__ as command
from evaluation.verifier import goemotions
from evaluation.verifier.base import Cached, load_verifier
from evaluation.verifier.corpus import Example, corpus, indicators, read_corpus
from evaluation.verifier.f1 import best_threshold, f1_of
from evaluation.verifier.hf import BATCH
from evaluation.verifier.linear import LinearVerifier, fit
from runtime.errors import ConfigError, RecordError
from runtime.files import write_jsonl

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
LABELS = ("anger", "joy", "fear")
WORDS = {"anger": ["furious", "shouting"], "joy": ["glad", "smiling"], "fear": ["afraid", "trembling"]}


def rows() -> list[dict]:
    """84 texts of a few words; each emotion has two words of its own, and every fourth text has two emotions."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(84):
        shown = [LABELS[k] for k in rng.permutation(3)[: 2 if i % 4 == 0 else 1]] if i % 6 else []
        filler = rng.choice("she he walks home then the voice of a man".split(), 4)
        made.append({"text": " ".join([*filler, *(rng.choice(WORDS[e]) for e in shown), str(i)]), "labels": shown})
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [Example(row["text"], frozenset(row["labels"]), row["text"]) for row in rows()]


@pytest.fixture(scope="module")
def trained(examples) -> LinearVerifier:
    return fit(examples, LABELS, seed=0).verifier


# Metrics


def test_f1_agrees_with_scikit_learn_also_on_repeated_items():
    rng = np.random.default_rng(0)
    gold, said = rng.random((50, 3)) < 0.3, rng.random((50, 3)) < 0.4
    items = rng.integers(50, size=50)
    found = f1_of(gold, said, LABELS)(items)
    assert found["macro_f1"] == pytest.approx(f1_score(gold[items], said[items], average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(gold[items], said[items], average="micro"))
    assert [found[f"f1/{label}"] for label in LABELS] == pytest.approx(f1_score(gold[items], said[items], average=None))


def test_macro_f1_is_over_the_labels_that_occur_and_claims_of_others_cost_in_micro_f1():
    gold, said = np.array([[1, 0], [1, 0]], bool), np.array([[1, 1], [1, 0]], bool)
    # label 0: 2 * 2 / (2 + 2) = 1; label 1 does not occur; micro: 2 * 2 / (2 + 3)
    found = f1_of(gold, said, ("a", "b"))(np.arange(2))
    assert found == {"macro_f1": 1.0, "micro_f1": 0.8, "f1/a": 1.0, "f1/b": 0.0}


@pytest.mark.parametrize(
    ("gold", "probs", "expected"),
    [
        ([1, 0, 1, 0], [0.9, 0.1, 0.6, 0.3], 0.6),  # above .6: F1 of 1
        ([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.2], 0.2),  # the three at .5 stand together: 2/5, all four: 4/6
        ([0, 0], [0.9, 0.1], 1.0),
    ],
)
def test_the_threshold_is_where_f1_is_best(gold, probs, expected):
    assert best_threshold(np.array(gold, bool), np.array(probs)) == expected


# The linear verifier


def test_it_learns_the_words_of_each_emotion_and_that_two_can_apply(trained: LinearVerifier):
    texts = ["the man is furious", "smiling then", "afraid and shouting", "she walks home"]
    said = trained.probabilities(texts) >= trained.thresholds_L
    assert [{label for label, yes in zip(LABELS, row, strict=True) if yes} for row in said] == [
        {"anger"},
        {"joy"},
        {"anger", "fear"},
        set(),
    ]


def test_what_is_loaded_gives_exactly_the_same_probabilities_and_holds_no_pickle(trained: LinearVerifier, tmp_path):
    trained.save(tmp_path / "verifier")
    loaded = load_verifier(tmp_path / "verifier")
    texts = ["glad and afraid", "FURIOUS!!", "", "nobody knows these words \U0001f600", "声音低沉"]
    found = loaded.probabilities(texts)
    assert np.array_equal(found, trained.probabilities(texts)) and loaded.labels == LABELS
    assert isinstance(loaded, LinearVerifier) and len(loaded.views) == 2
    assert np.array_equal(loaded.thresholds_L, trained.thresholds_L)
    assert found.shape == (5, 3) and found.dtype == np.float64 and ((found > 0) & (found < 1)).all()
    assert sorted(p.name for p in (tmp_path / "verifier").iterdir()) == ["verifier.json", "verifier.safetensors"]


def test_a_text_has_the_same_row_alone_and_in_a_batch(trained: LinearVerifier):
    texts = ["glad", "a voice, trembling", ""]
    alone = np.concatenate([trained.probabilities([text]) for text in texts])
    assert np.array_equal(trained.probabilities(texts), alone)
    assert trained.probabilities([]).shape == (0, 3)


def test_a_label_that_never_or_always_applies_gets_a_constant_probability(examples):
    marked = [Example(e.text, e.labels | {"always"}, e.group) for e in examples]
    found = fit(marked, ("always", "never", "joy"), seed=0).verifier
    probs = found.probabilities(["glad", "furious"])
    # 84 texts: (84 + .5) / 85 and .5 / 85
    assert probs[:, :2] == pytest.approx(np.array([[84.5 / 85, 0.5 / 85]] * 2), abs=1e-6)
    assert (probs >= found.thresholds_L)[:, :2].tolist() == [[True, False]] * 2


def test_folds_do_not_tear_groups_apart():
    # what a text says depends on its group alone: where folds left groups whole, left-out texts cannot be told apart
    rng = np.random.default_rng(1)
    names = ["".join(rng.choice(list("bdfgklmnprstvz"), 8)) for _ in range(30)]
    grouped = [
        Example(f"{names[g]} {'ab'[i % 2]}", frozenset({"joy"} if yes else ()), str(g))
        for g, yes in enumerate(rng.permutation([0, 1] * 15))
        for i in range(4)
    ]
    torn = [Example(e.text, e.labels, str(i)) for i, e in enumerate(grouped)]
    whole, apart = (max(fit(found, ("joy",), seed=0).cv_macro_f1.values()) for found in (grouped, torn))
    assert apart > 0.95 and whole < 0.8


def test_a_language_without_blanks_is_read_by_its_pieces():
    texts = [f"他{extra}{sound}地说{extra}" for sound in ("高兴", "难过") for extra in "一二三四五六七八九"]
    found = fit([Example(t, frozenset({"joy"} if "高兴" in t else ()), t) for t in texts], ("joy",), seed=0).verifier
    assert len(found.views) == 1, "no word occurs twice"
    said = found.probabilities(["她高兴地笑", "她难过地走"]) >= found.thresholds_L
    assert said.tolist() == [[True], [False]]


def test_texts_that_share_nothing_are_refused():
    alien = [Example(text, frozenset({"joy"}), text) for text in ("abc", "def", "ghi", "jkl")]
    with pytest.raises(RecordError, match=r"must occur in two of the texts trained on; got 2 texts without; add texts"):
        fit(alien, ("joy",), seed=0)


# The cache and the door


class Counting:
    """Says how long a text is, and notes every batch."""

    labels: tuple[str, ...] = ("long", "short")

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        return np.array([[len(t) / 100, 1 - len(t) / 100] for t in texts])


def test_a_text_is_read_once_and_new_ones_as_one_batch():
    inner = Counting()
    cached = Cached(inner)
    first = cached.probabilities(["aa", "b", "aa"])
    assert first.tolist() == [[0.02, 0.98], [0.01, 0.99], [0.02, 0.98]]
    assert cached.probabilities(["ccc", "b"]).tolist() == [[0.03, 0.97], [0.01, 0.99]]
    assert cached.probabilities(["aa", "ccc"]).shape == (2, 2) and cached.probabilities([]).shape == (0, 2)
    assert inner.batches == [["aa", "b"], ["ccc"]] and cached.asked == 3 and cached.labels == inner.labels


def test_what_a_caller_does_to_its_rows_does_not_reach_the_cache():
    cached = Cached(Counting())
    cached.probabilities(["aa"])[:] = 0
    assert cached.probabilities(["aa"]).tolist() == [[0.02, 0.98]]


def test_a_source_that_holds_no_verifier_is_refused(trained: LinearVerifier, tmp_path):
    with pytest.raises(
        ConfigError, match=r"verifier: '.*/absent' is no folder and no hub name; mend the path, or train"
    ):
        load_verifier(str(tmp_path / "absent"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"holds neither verifier\.json .* nor config\.json .*; got \['notes\.txt'\]"):
        load_verifier(tmp_path)
    with pytest.raises(ConfigError, match=r"notes\.txt' is no folder and no hub name"):
        load_verifier(tmp_path / "notes.txt")

    trained.save(tmp_path / "v")
    path = tmp_path / "v" / "verifier.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"format": 99}))
    with pytest.raises(ConfigError, match=r"verifier\.json: format 1 is what this version reads; got 99; train"):
        load_verifier(tmp_path / "v")
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"verifier\.json: not JSON \(.*\); copy or train the verifier again"):
        load_verifier(tmp_path / "v")
    path.write_text(json.dumps(saved))
    (tmp_path / "v" / "verifier.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"there is no verifier\.safetensors beside it; copy the whole folder"):
        load_verifier(tmp_path / "v")


# Sequence classifiers of transformers

VOCABULARY = ["[PAD]", "[UNK]", "glad", "furious", "the", "voice", "is", "very"]


def write_bert(
    folder: Path, labels: Sequence[str] = LABELS, problem: str | None = None, cls: type[PreTrainedModel] | None = None
) -> PreTrainedModel:
    """A tiny random BERT with its tokenizer."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
    )
    model = (cls or BertForSequenceClassification)(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification", None])
def test_a_classifier_gives_sigmoids_when_it_is_multi_label_and_else_a_softmax(problem, tmp_path):
    model = write_bert(tmp_path, problem=problem)
    verifier = load_verifier(tmp_path)
    assert verifier.labels == LABELS
    found = verifier.probabilities(["glad the voice", "furious"])
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0].double() for ids in ([2, 4, 5], [3])]
    expected = [x.sigmoid() if problem == "multi_label_classification" else x.softmax(0) for x in logits]
    assert found == pytest.approx(torch.stack(expected).numpy(), abs=1e-5) and found.dtype == np.float64


def test_rows_keep_their_order_whatever_the_length_of_the_texts_and_the_number_of_batches(tmp_path):
    write_bert(tmp_path, problem="multi_label_classification")
    verifier = load_verifier(tmp_path)
    texts = [" ".join(["glad", "furious", "very", "is"][i % 4 :] * (1 + i % 3)) for i in range(BATCH + 8)]
    one_by_one = np.concatenate([verifier.probabilities([text]) for text in texts[-9:]])
    assert verifier.probabilities(texts)[-9:] == pytest.approx(one_by_one, abs=1e-5)
    assert len({tuple(row.round(4)) for row in one_by_one}) > 5, "the texts are told apart"
    assert verifier.probabilities([]).shape == (0, 3)
    long = "glad " * 50  # the model has 8 positions
    assert verifier.probabilities([long]) == pytest.approx(verifier.probabilities(["glad " * 8]), abs=1e-5)


def test_a_checkpoint_that_is_no_trained_classifier_is_refused(tmp_path):
    write_bert(tmp_path / "bare", cls=BertModel)
    with pytest.raises(ConfigError, match=r"not trained as a classifier: it lacks \['classifier\.bias'"):
        load_verifier(tmp_path / "bare")
    write_bert(tmp_path / "one", labels=["valence"])
    with pytest.raises(ConfigError, match=r"has 1 output, and a classifier has two or more; name another one"):
        load_verifier(tmp_path / "one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "nothing_known"}')
    with pytest.raises(
        ConfigError, match=r"transformers finds no sequence classifier in '.*other' \(.*\); name a folder"
    ):
        load_verifier(tmp_path / "other")


def test_a_hub_name_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no sequence classifier in 'nobody/has-this' \(.*\); .* download it first"):
        load_verifier("nobody/has-this")


# Corpora


def test_a_corpus_without_splits_holds_a_fifth_of_its_groups_out_by_seed(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [row | {"group": f"g{i % 10}"} for i, row in enumerate(rows())])
    first, again, other = (read_corpus(tmp_path / "c.jsonl", seed) for seed in (0, 0, 1))
    assert first == again and first.labels == tuple(sorted(LABELS))
    held_out = {e.group for e in first.test}
    assert len(held_out) == 2 and held_out.isdisjoint(e.group for e in first.train)
    assert held_out != {e.group for e in other.test} and len(first.train) + len(first.test) == 84


def test_stated_splits_are_kept_and_no_text_is_in_both(tmp_path):
    lines = [
        ("Glad!", "joy", "train"),
        (" glad! ", "joy", "test"),
        ("so furious", "anger", "train"),
        ("home", "joy", "train"),
    ]
    write_jsonl(tmp_path / "c.jsonl", [{"text": t, "labels": [x], "split": s} for t, x, s in lines])
    found = read_corpus(tmp_path / "c.jsonl", 0)
    assert [e.text for e in found.train] == ["so furious", "home"] and [e.text for e in found.test] == [" glad! "]
    assert found.dropped == 1
    assert indicators(found.train, found.labels).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"c\.jsonl:2: not JSON \(.* at column \d+\); mend or remove the line"),
        ('["a"]', r"c\.jsonl:2: line: an object of text, labels, group and split; got"),
        (
            '{"text": "a", "labels": [], "lable": 1}',
            r"c\.jsonl:2: line: an object of text, labels, group and split; got",
        ),
        ('{"text": " ", "labels": []}', r"c\.jsonl:2: text: a non-empty string is required; got ' '; mend"),
        ('{"text": "a", "labels": "joy"}', r"c\.jsonl:2: labels: a list of non-empty strings is required; got 'joy'"),
        ('{"text": "a", "labels": [], "group": 3}', r"c\.jsonl:2: group: a string, where it is stated; got 3; mend"),
        ('{"text": "a", "labels": [], "split": "dev"}', r"c\.jsonl:2: split: one of train, test, where .*; got 'dev'"),
        (
            '{"text": "a", "labels": [], "split": "test"}',
            r"c\.jsonl: split: stated on every line or on none; got 'both'",
        ),
        ("", r"c\.jsonl: a label, a held-out text, and two groups .*; got 1 labels, 1 held-out texts and 0 groups"),
    ],
)
def test_a_malformed_corpus_is_refused_with_its_place(line, said, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "glad", "labels": ["joy"]}\n' + line)
    with pytest.raises(RecordError, match=said):
        read_corpus(tmp_path / "c.jsonl", 0)


def test_goemotions_is_read_without_quotes_and_what_dev_holds_leaves_train(tmp_path):
    (tmp_path / "labels.txt").write_text("joy\nanger\nneutral")
    (tmp_path / "train.tsv").write_text('"so glad\t0\ta1\nOk\t2\ta2\nmean and "loud\t1,2\ta3\n')
    (tmp_path / "dev.tsv").write_text(" ok\t2\tb1\n")
    found = goemotions.read(tmp_path)
    assert found.labels == ("joy", "anger", "neutral") and found.dropped == 1
    assert [(e.text, e.labels) for e in found.train] == [
        ('"so glad', frozenset({"joy"})),
        ('mean and "loud', frozenset({"anger", "neutral"})),
    ]
    (tmp_path / "dev.tsv").write_text("ok\t3\tb1\n")
    with pytest.raises(RecordError, match=r"dev\.tsv:1: labels: numbers from 0 to 2 are required; got '3'; mend"):
        goemotions.read(tmp_path)


def test_the_shipped_config_knows_the_valence_of_every_emotion():
    """12 positive, 11 negative, 4 ambiguous ones and neutral (Demszky et al. 2020); and the two sides themselves."""
    signs = OmegaConf.load(CONF / "explanation" / "none.yaml").valence
    of_goemotions = {label: sign for label, sign in signs.items() if label not in ("positive", "negative")}
    assert Counter(of_goemotions.values()) == {1: 12, -1: 11, 0: 5}
    assert signs.relief == 1 and signs.surprise == 0 and signs.negative == -1


@pytest.mark.slow
def test_on_real_comments_a_small_part_beats_both_trivial_rules(real_data):
    data = goemotions.read(real_data / "goemotions")
    assert (len(data.train), data.dropped, len(data.test)) == (43_410 - 103, 103, 5_426)
    signs = OmegaConf.load(CONF / "explanation" / "none.yaml").valence
    assert set(data.labels) == set(signs) - {"positive", "negative"} and len(data.labels) == 28
    assert len(corpus(data.labels, data.train, data.test).train) == len(data.train), "nothing is left to drop"
    small = fit(data.train[:5000], data.labels, seed=0)
    found = command.report(data, small, seed=0, resamples=20)
    rules = [found[rule]["macro_f1"] for rule in ("most_frequent", "every_label")]
    assert found["metrics"]["macro_f1"]["lo"] > 2 * max(rules) and found["metrics"]["macro_f1"]["value"] > 0.2
