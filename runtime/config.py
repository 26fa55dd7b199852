"""The door between Hydra and the code: a YAML section becomes a typed, checked dataclass, and nothing else travels inside.

Defaults live in `conf/` alone; the dataclasses have none. So a key that is missing, misspelt or of the wrong type dies here,
with its name, before any work is done.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

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


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"a.b.c": value}; lists and empty mappings are values."""
    if isinstance(value, Mapping) and value:
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def _values(cfg: DictConfig, name: str) -> dict[str, Any]:
    if name not in cfg or not OmegaConf.is_dict(cfg[name]):
        raise ConfigError(f"config: there is no section {name!r}; add the group to the defaults list")
    try:
        values = OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:  # a key that must be stated, or an interpolation without a value
        raise ConfigError(f"config: {str(error).splitlines()[0]}; state it, or mend the config") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _check_keys(name: str, values: Iterable[str], known: Iterable[str], required: Iterable[str]) -> None:
    if unknown := set(values) - set(known):
        raise _unknown(name, unknown, known)
    if missing := sorted(set(required) - set(values)):
        raise ConfigError(
            f"{name}: missing {missing}; every default has one home, conf/{name}/*.yaml; add the key there"
        )


def section(cfg: DictConfig, name: str, schema: type[T]) -> T:
    """The section `name` of `cfg` as an instance of the dataclass `schema`.

    Raises:
        ConfigError: when a key is unknown, missing, of the wrong type, or out of range (`__post_init__` says so).
    """
    values = _values(cfg, name)
    known = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    _check_keys(name, values, known, known)
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values)))
    except OmegaConfBaseException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(f"{name}.{error.full_key}: {str(error).splitlines()[0]}; mend the config") from None
    return typed


def make(cfg: DictConfig, name: str) -> Any:
    """The object that the section `name` of `cfg` describes: its `_target_`, called with its other keys.

    Raises:
        ConfigError: when a key is unknown, missing or of the wrong type, or when the class refuses a value.
    """
    values = _values(cfg, name)
    module, _, cls_name = str(values.pop("_target_", None)).rpartition(".")
    try:
        cls = vars(importlib.import_module(module))[cls_name]
    except (ImportError, ValueError, KeyError) as error:
        raise ConfigError(f"{name}._target_: {cfg[name].get('_target_')!r} cannot be imported ({error!r})") from None
    taken = inspect.signature(cls).parameters
    _check_keys(name, values, taken, [key for key, p in taken.items() if p.default is p.empty])
    hints = get_type_hints(cls.__init__)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ConfigError(f"{name}.{key}: must be {_words(hints[key])}; got {value!r}; mend the config")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of a type that the constructor of a task or teacher asks for."""
    inner, plain = get_args(hint), get_origin(hint) or hint
    if plain is UnionType:
        return any(_fits(value, one) for one in inner)
    if plain is Sequence:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if plain is Mapping:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if plain in (int, float):
        return isinstance(value, (int, plain)) and not isinstance(value, bool)
    return isinstance(value, plain)


def _words(hint: Any) -> str:
    """A type as people write it: `int`, `float | None`, `Sequence[str]`."""
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("collections.abc.", "")
