"""What the card of an exported model says, with gaps; `evaluation/model_card.py` fills them."""

import json
from collections.abc import Mapping

TEXT = """
# {title}

{form} It was trained by Undertone to say how a speaker feels: it discriminates first (which direction), calibrates then (how
much, or which exactly), and explains itself.

**Licence**: {licence}

## Data

{data}

## Training

{training}

## Rewards

{rewards}

Hints: {hint}

## Results

{results}

## Limits

It has seen the speakers and languages of `{task}` and no others, and what people show is not what they feel. It is no tool for
diagnosis, and not for decisions about people. {speech}

## Use

{use}

## How it was made

{commands}

{versions}

{lineage}
"""

FORM = {
    "omni": "A full Qwen2.5-Omni checkpoint whose thinker was trained, for transformers and vLLM.",
    "thinker": "The thinker of a Qwen2.5-Omni, without talker and voices, for transformers.",
}
USE = """```python
from transformers import AutoProcessor, {cls}
processor = AutoProcessor.from_pretrained(FOLDER)
model = {cls}.from_pretrained(FOLDER){after}
```

Trained with pictures of {low} to {high} pixels and at most {frames} frames of a video, {fps:g} a second{sound}. The processor of
transformers has a size of its own for videos: give it `videos_kwargs={{"size": {size}, "fps": {fps:g}}}`."""
VLLM = """

    vllm serve FOLDER {options}

answers as the thinker does where it is shown the same frames: vLLM picks those of a film by itself. {heard}"""
HEARD = {
    False: "A film's own sound is not heard; send it beside the film, as a part of its own, as in training.",
    True: "It was trained with sounding films, which stock vLLM 0.30 puts together in another way than transformers: serve the\n"
    "run with `python -m data_synth.serve backend=vllm checkpoint=RUN/rl/final`, which mends that.",
}


SPEECH = {
    True: "Talker and voices are those of the base: they were not trained with this thinker, and its speech was not listened to.",
    False: "It writes and does not speak: there was no talker to put beside the thinker.",
}


def serving(fps: float, size: Mapping[str, int]) -> list[str]:
    """Options with which vLLM shows a film as it was shown in training; without them, it takes more pictures, and larger ones."""
    shown = {"videos_kwargs": {"size": dict(size)}, "fps": fps}
    return [
        *("--limit-mm-per-prompt", json.dumps({"audio": 2, "image": 1, "video": 1})),
        *("--media-io-kwargs", json.dumps({"video": {"num_frames": -1, "fps": fps}})),
        *("--mm-processor-kwargs", json.dumps(shown)),
    ]
