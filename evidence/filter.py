"""How well the filter of the synthesis finds known defects: what the scripted teacher spoilt, against what was rejected.

A draft counts where the cue teacher alone would have been right by the grades of its own run, whatever else the filter thought of
it; so a defect is all that is wrong with a draft, and a draft without one (a decoy has none) is to be kept. Precision is the share
of the rejected that have a defect, recall the share of those with a defect that were rejected.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from scipy.stats import binomtest

from data_synth.output import read_output, rows
from data_synth.scripted import DECOY
from evaluation.compare.tables import table


@dataclass(frozen=True, slots=True)
class Drawn:
    """One draft of the scripted teacher."""

    uid: str
    defect: str | None
    wording: str | None
    reason: str | None
    """Why it was rejected; None when it was accepted."""

    @property
    def spoilt(self) -> bool:
        """Whether it is to be rejected."""
        return self.defect not in (None, DECOY)


def drawn(synth: Path) -> list[Drawn]:
    """Every draft with a text that a run's `synth/` holds, accepted ones first."""
    kept = [(row["uid"], row["meta"]["synth"]["draft"], None) for row in rows(synth / "chains.jsonl")]
    others = [
        (row["uid"], row["synth"]["draft"], row["reason"]) for row in rows(synth / "rejected.jsonl") if row["text"]
    ]
    return [Drawn(uid, draft["defect"], draft["wording"], reason) for uid, draft, reason in kept + others]


def share(part: int, whole: int) -> str:
    """A share with Wilson's 95 % interval; empty for nothing of nothing."""
    if not whole:
        return ""
    found = binomtest(part, whole).proportion_ci(method="wilson")
    return f"{part / whole:.3f} [{found.low:.3f}, {found.high:.3f}]"


def by_defect(drafts: Sequence[Drawn]) -> str:
    """A line for each defect, for all of them together, for decoys and for honest drafts."""
    defects = sorted({d.defect for d in drafts if d.defect and d.spoilt})
    lines = [_line(defect, [d for d in drafts if d.defect == defect]) for defect in defects]
    lines.append(_line("any defect", [d for d in drafts if d.spoilt]))
    lines += [_line(name or "honest", [d for d in drafts if d.defect == name]) for name in (DECOY, None)]
    return table(["defect", "drafts", "rejected", "share rejected", "because"], lines)


def _line(name: str, drafts: Sequence[Drawn]) -> list[str]:
    reasons = Counter(d.reason.partition(":")[0] for d in drafts if d.reason)
    because = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    return [name, str(len(drafts)), str(reasons.total()), share(reasons.total(), len(drafts)), because]


def by_wording(drafts: Sequence[Drawn]) -> str:
    """A line for each way to leak, to write another language, or to break the form."""
    groups = sorted({(d.defect, d.wording) for d in drafts if d.defect and d.wording})
    lines = []
    for defect, wording in groups:
        of_it = [d for d in drafts if (d.defect, d.wording) == (defect, wording)]
        lines.append([f"{defect}: {wording}", str(len(of_it)), str(sum(d.reason is not None for d in of_it))])
    return table(["wording", "drafts", "rejected"], lines)


def summary(drafts: Sequence[Drawn]) -> str:
    """Precision and recall of rejecting, and what share is without a defect, of all and of the kept."""
    spoilt, thrown = [d for d in drafts if d.spoilt], [d for d in drafts if d.reason]
    both = sum(d.spoilt for d in thrown)
    kept = len(drafts) - len(thrown)
    honest = kept - (len(spoilt) - both)
    return table(
        ["drafts", "precision", "recall", "without a defect", "among the kept"],
        [
            [
                str(len(drafts)),
                share(both, len(thrown)),
                share(both, len(spoilt)),
                share(len(drafts) - len(spoilt), len(drafts)),
                share(honest, kept),
            ]
        ],
    )


def right(honest: Path) -> set[str]:
    """Records that the honest teacher's run graded right: verdict, agreement and closeness."""
    out = read_output(honest)
    kept = ((row["uid"], row["meta"]["synth"]["parts"]) for row in rows(out.folder / "chains.jsonl"))
    others = ((row["uid"], row["synth"]["parts"]) for row in rows(out.folder / "rejected.jsonl"))
    least = {"discriminate": 1.0, "agreement": 1.0, "calibrate": out.config.synth.min_calibrate}
    return {
        uid
        for uid, parts in chain(kept, others)
        if all(parts.get(name) is not None and parts[name] >= n for name, n in least.items())
    }


def report(honest: Path, scripted: Iterable[Path]) -> str:
    """All tables.

    Args:
        honest: the run of the cue teacher on the same clips.
        scripted: those of the scripted teacher, a seed each.
    """
    fair = right(honest)
    every = [d for run in scripted for d in drawn(run / "synth")]
    found = [d for d in every if d.uid in fair]
    asked = f"{len(found)} of {len(every)} drafts are about clips that the honest teacher has right."
    return "\n\n".join([asked, summary(found), by_defect(found), by_wording(found)])
