"""What reads explanations in the studies of explanation rewards: two verifiers in the teacher's own language.

One pays while a policy is trained, the other one measures what came out, and no clip has taught both: a policy that has learnt
to please the first has not seen the second. Both learn from what the teacher wrote of the training clips, accepted or not, with the
direction (or emotion) that people gave the clip.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.score import load_task
from evidence.verbs import verb
from rewards.explanation import sentences
from runtime.files import digest, read_jsonl
from tasks.dc import Answer
from tasks.metrics.explanation import side_of
from tasks.record import Record, read_records

SPEED = re.compile(r"-x[0-9.]+$")
"""What `tasks/speech_emotion` adds to the uid of a clip at another speed."""

HALVES = ("payer", "reader")
"""Who pays for explanations while a policy learns, and who reads them afterwards."""


def train_readers(out: Path, every: Sequence[str], task: Sequence[str]) -> None:
    """Have all training clips written about, and train `out/payer` and `out/reader`; what is done is not done again.

    Args:
        out: gets the texts, the corpora and the verifiers.
        every: overrides of all commands of the study.
        task: those among them that describe the task, such as `task=emodb`.
    """
    if all((out / half / "report.json").is_file() for half in HALVES):
        return
    texts = out / "texts"
    verb("data_synth", texts / "data_synth.log", (f"hydra.run.dir={texts}", *every, "synth.limit=null"))
    records = {record.uid: record for record in read_records(texts / "data" / "records.jsonl")}
    chains = {r.uid: r.rationale or "" for r in read_records(texts / "synth" / "chains.jsonl")}
    rejected = {row["uid"]: row["text"] or "" for row in read_jsonl(texts / "synth" / "rejected.jsonl")}
    for number, half in enumerate(HALVES):
        corpus = out / f"{half}.jsonl"
        corpus.write_text("".join(lines(chains | rejected, records, task, number)))
        verb("evaluation.verifier", out / f"{half}.log", (f"data={corpus}", f"out={out / half}"))


def lines(texts: Mapping[str, str], records: Mapping[str, Record], task: Sequence[str], half: int) -> list[str]:
    """A corpus (`evaluation/verifier/corpus.py`): every sentence about a half of the clips, with its clip's direction or emotion.

    A teacher of few words says the same of many clips. So texts are held out, not clips: else next to nothing would be left.

    Args:
        texts: uid -> what was written, in the grammar; what cannot be parsed is left out.
        records: uid -> record, of the training split.
        task: overrides that describe the task.
        half: 0 or 1; which one a clip is in is decided by its uid, and a clip stays together with its copies at other speeds.
    """
    judge, found = load_task(task), []
    for uid, text in texts.items():
        clip = SPEED.sub("", uid)
        answer = judge.parse(records[uid], text)
        if int(digest(clip), 16) % 2 != half or not isinstance(answer, Answer):
            continue
        labels = [side_of(records[uid].target)]
        for sentence in (s for body in answer.bodies.values() for s in sentences(body)):
            found.append(json.dumps({"text": sentence, "labels": labels}) + "\n")
    return found
