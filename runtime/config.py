"""The door between Hydra and the code: a YAML section becomes a typed, checked dataclass, and nothing else travels inside.

Defaults live in `conf/` alone; the dataclasses have none. So a key that is missing, misspelt or of the wrong type dies here,
with its name, before any work is done.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runtime.errors import ConfigError

T = TypeVar("T")


def _unknown(where: str, got: Iterable[str], known: Iterable[str]) -> ConfigError:
    known = sorted(known)
    hints = []
    for key in sorted(got):
        near = difflib.get_close_matches(key, known, n=1)
        hints.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return ConfigError(f"{where}: unknown key {', '.join(hints)}; allowed: {', '.join(known)}; mend the config")


def check_sections(cfg: DictConfig, known: Iterable[str]) -> None:
    """Refuse top-level keys that nobody reads, as a misspelt key in an experiment file would be.

    Raises:
        ConfigError: naming the key and the nearest known one.
    """
    if unknown := {str(key) for key in cfg} - set(known):
        raise _unknown("config", unknown, known)


def section(cfg: DictConfig, name: str, schema: type[T]) -> T:
    """The section `name` of `cfg` as an instance of the dataclass `schema`.

    Raises:
        ConfigError: when a key is unknown, missing, of the wrong type, or out of range (`__post_init__` says so).
    """
    if name not in cfg or not OmegaConf.is_dict(cfg[name]):
        raise ConfigError(f"config: there is no section {name!r}; add the group to the defaults list")
    values = OmegaConf.to_container(cfg[name], resolve=True)
    assert isinstance(values, dict)
    known = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    if unknown := {str(k) for k in values} - known:
        raise _unknown(name, unknown, known)
    if missing := sorted(known - {str(k) for k in values}):
        raise ConfigError(
            f"{name}: missing {missing}; every default has one home, conf/{name}/*.yaml; add the key there"
        )
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values)))
    except OmegaConfBaseException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(f"{name}.{error.full_key}: {str(error).splitlines()[0]}; mend the config") from None
    return typed
