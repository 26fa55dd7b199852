"""Errors for people: what was wrong, the value, where, and what to do."""


class UndertoneError(ValueError):
    """Base of every error that a user can cause and mend."""


class ConfigError(UndertoneError):
    """A setting is unknown, has the wrong type, is out of range, or contradicts another one."""


class RecordError(UndertoneError):
    """A record line is malformed; the text names file, line, field and remedy."""


class MediaError(UndertoneError):
    """A media file is missing, unreadable, too long, or outside the declared root."""


class StageError(UndertoneError):
    """A stage lacks its input, or its folder was made with other settings."""


class ParityError(UndertoneError):
    """Rollout and trainer disagree, or a modality does not reach the loss."""
