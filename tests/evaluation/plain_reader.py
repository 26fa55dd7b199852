"""Reads an export with transformers alone and prints the likeliest tokens after a prompt.

python -I plain_reader.py CLASS FOLDER CLIP TOKENS
"""

import json
import sys

import numpy as np
import torch
import transformers

kind, folder, clip, count = sys.argv[1:]
assert "models" not in sys.modules and not any("undertone" in path for path in sys.path[:1])
shown = np.load(clip)
processor = transformers.AutoProcessor.from_pretrained(folder)
model = getattr(transformers, kind).from_pretrained(folder).eval()
# the size as the card says it: without one, the processor takes a class's own over that of its folder
video = {"do_sample_frames": False, "fps": float(shown["fps"]), "size": dict(processor.video_processor.size)}
batch = processor(
    text=[str(shown["prompt"])],
    audio=[shown["sound"]],
    videos=[torch.from_numpy(shown["frames"])],
    videos_kwargs=video,
    padding=True,
    return_tensors="pt",
)
# media tokens are never said by our engines, and an untrained model would
options = {"max_new_tokens": int(count), "do_sample": False, "suppress_tokens": shown["forbidden"].tolist()}
if "Thinker" not in kind:
    model = model.thinker  # the full model's own generate() fails where there is no talker (transformers 5.23)
with torch.no_grad():
    said = model.generate(**batch, use_audio_in_video=False, **options)
length = batch["input_ids"].shape[1]
print(json.dumps({"prompt": batch["input_ids"][0].tolist(), "said": said[0, length:].tolist()}))
