"""What the doctor can find, and how bad each kind is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]

KINDS: Mapping[str, tuple[Severity, str]] = {
    "record": ("error", "a line that is no record"),
    "uid": ("error", "a uid that occurs twice"),
    "group": ("error", "a group (speaker, dialogue) in more than one split"),
    "label": ("error", "a label outside its declared range or space, or outside of what its raters said"),
    "missing": ("error", "a pointer that leads to no file below the media root"),
    "unreadable": ("error", "media that cannot be decoded, or hold nothing in their span"),
    "no_track": ("error", "no audio track where sound is promised"),
    "silent": ("error", "sound without anything to hear"),
    "blank": ("error", "pictures of one colour"),
    "too_short": ("error", "less sound or fewer frames than a tower needs"),
    "too_long": ("error", "more than the model takes: of sound, of a picture's sides, of tokens"),
    "duplicate": ("error", "a clip or text that is in another split, too"),
    "no_view": ("error", "none of the views that the prompt shows"),
    "empty_text": ("error", "a text without a word"),
    "media_token": ("error", "text with a token that stands for media"),
    "mojibake": ("warning", "text that was decoded with the wrong character set"),
    "clipped": ("warning", "sound that was cut off at a level"),
    "length": ("warning", "sound and pictures of different length"),
    "outlier": ("warning", "a label far away from all others"),
    "sparse": ("warning", "frames taken at less than half of the wanted rate, because the clip is long"),
    "shrunk": ("warning", "frames larger than the model sees them"),
}
"""Kind -> its severity and what it means. An error would break training or poison it; a warning should be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of one record, or of the file."""

    kind: str
    """A key of KINDS."""
    uid: str | None
    """Of the record; None for a line that has none that can be read."""
    reason: str
    """What is wrong, the value, where, and what to do."""
    view: str | None = None
    """The view that is concerned, if it is one."""

    @property
    def severity(self) -> Severity:
        """That of the kind."""
        return KINDS[self.kind][0]

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "uid": self.uid,
            "view": self.view,
            "reason": self.reason,
        }
