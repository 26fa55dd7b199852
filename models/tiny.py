"""The tiny omni model: the real thinker class, processor and chat format at 1 to 10 M parameters, built offline.

Nothing is downloaded: the byte-level BPE tokenizer is trained here on a few sentences, the weights are random. What a real
checkpoint knows from pretraining is stood in for by a short *perception* stage (`sft/perception.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
    Qwen2_5OmniTextConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniVisionEncoderConfig,
)

from tasks.studio.render import KEY_WORDS, TEMPLATES

EOS, PAD = "<|im_end|>", "<|endoftext|>"
TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

# Looks at a part's `type` alone: the official template asks whether a key exists, and keys that a data set filled with
# None would render a second placeholder.
CHAT_TEMPLATE = """
{%- set slots = {
    'image': '<|vision_bos|><|IMAGE|><|vision_eos|>',
    'audio': '<|audio_bos|><|AUDIO|><|audio_eos|>',
    'video': '<|vision_bos|><|VIDEO|><|vision_eos|>'} -%}
{%- for turn in messages -%}
    {{- '<|im_start|>' ~ turn.role ~ '\\n' -}}
    {%- for part in turn.content -%}{{- slots[part.type] if part.type in slots else part.text -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

CORPUS = [
    *(template.format(word) for template in TEMPLATES for words in KEY_WORDS.values() for word in words),
    *(
        f"<discriminate>{side}: words {cue}, voice {cue}, face {cue}</discriminate><calibrate>strength {x}</calibrate>"
        f"<answer>{x}</answer>"
        for side in ("negative", "neutral", "positive")
        for cue in ("up", "flat", "down")
        for x in ("0.0", "1.0", "-1.0")
        for _ in range(8)  # often enough that every word becomes one token
    ),
    "How does the speaker feel, from -3 to 3? What do words, voice and face do? text: high low middle wide narrow loud quiet",
    "<think>evidence rationale</think> user assistant anger fear disgust sadness happiness neutral calm surprise pitch range",
]
"""What the tokenizer is trained on: the studio's sentences and the words of the answer grammar."""

HEAD = 32
"""Width of an attention head."""


@dataclass
class TinyShape:
    """Sizes of the tiny model; its defaults live in `conf/model/tiny_omni.yaml`."""

    width: int
    layers: int
    tower_width: int
    tower_layers: int
    max_audio_s: int
    """Longest sound in seconds."""


def build_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `corpus`; any other text still encodes, as bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=TOKENS,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    # beside a dict of extra_special_tokens, additional_special_tokens= is dropped without a word
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerFast, max_audio_s: int) -> Qwen2_5OmniProcessor:
    """The real omni processor around a tiny tokenizer."""
    patch = 28 * 28
    return Qwen2_5OmniProcessor(
        tokenizer=tokenizer,
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16_000, chunk_length=max_audio_s, return_attention_mask=True
        ),
        image_processor=Qwen2VLImageProcessorPil(min_pixels=4 * patch, max_pixels=64 * patch),
        video_processor=Qwen2VLVideoProcessor(cap_pixels_per_frame=False),  # its default is announced to change
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, shape: TinyShape, seed: int
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A random thinker with two small towers."""
    half = HEAD // 2
    time, height = half // 4, (half - half // 4) // 2  # the sections must add up to half the head width
    vocabulary = tokenizer.get_vocab()
    ids = {name: vocabulary[token] for name, token in TOKENS.items()}
    config = Qwen2_5OmniThinkerConfig(
        text_config=Qwen2_5OmniTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=3 * shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.width // HEAD,
            num_key_value_heads=max(1, shape.width // HEAD // 2),
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [time, height, half - time - height],
            },
            pad_token_id=vocabulary[PAD],
            eos_token_id=vocabulary[EOS],
            tie_word_embeddings=False,
        ),
        audio_config=Qwen2_5OmniAudioEncoderConfig(
            num_mel_bins=128,
            encoder_layers=shape.tower_layers,
            encoder_attention_heads=2,
            encoder_ffn_dim=4 * shape.tower_width,
            d_model=shape.tower_width,
            output_dim=shape.width,
        ),
        vision_config=Qwen2_5OmniVisionEncoderConfig(
            depth=shape.tower_layers,
            hidden_size=shape.tower_width,
            intermediate_size=3 * shape.tower_width,
            num_heads=2,
            out_hidden_size=shape.width,
            fullatt_block_indexes=[shape.tower_layers - 1],  # must stay below the depth
        ),
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
    )
    # not declared by the config class, yet its position code reads it; it survives saving
    config.vision_start_token_id = ids["vision_bos_token"]
    config.vision_end_token_id = ids["vision_eos_token"]
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def build(folder: Path, shape: TinyShape, seed: int) -> None:
    """Write a random tiny checkpoint with its processor to `folder`, loadable like any other."""
    tokenizer = build_tokenizer(CORPUS)
    processor = build_processor(tokenizer, shape.max_audio_s)
    build_model(tokenizer, shape, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
