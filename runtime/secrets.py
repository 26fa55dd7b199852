"""Keys come from the environment alone, and never reach a file: they are refused where they are typed, hidden where they show up.

A secret is known by the name of what holds it (`api_key`, `HF_TOKEN`), by being the value of such a variable of the
environment, or by its looks (`sk-...`, `hf_...`, `https://user:password@host`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import ConfigError

HIDDEN = "***"
SHORTEST = 8
"""Letters. Shorter values of variables would blot out ordinary words."""
# `max_new_tokens` and `pad_token` are no secrets; `hf_token` is one, and so is a plain `token`.
_SETTING = re.compile(
    r"(^|_)(api_?key|access_key|secret(_key)?|password|passwd|credentials?|(access|auth|api|bearer|hf)_token)$|^token$",
    re.I,
)
_VARIABLE = re.compile(r"(key|token|secret|password|passwd|credentials?)$", re.I)
"""Variables of the environment are other people's: whatever might be a secret counts as one."""
_LOOKS = re.compile(
    r"\bsk-[\w-]{16,}"  # OpenAI and those who follow it
    r"|\bhf_[A-Za-z0-9]{16,}|\bwandb_v\d_\w{16,}"
    r"|\bgh[opsu]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bAKIA[A-Z0-9]{16}\b"
    r"|(?<=bearer )[\w.~+/=-]{8,}"  # a header
    r"|(?<=://)[^\s/@'\"]+(?=@)",  # user and password in a URL
    re.I,
)


def _is_secret(key: str) -> bool:
    return _SETTING.search(key.strip("-+~ ").replace("-", "_").rpartition(".")[2]) is not None


def redact_text(text: str) -> str:
    """`text` with `***` in place of every secret value: of the environment, or of known looks."""
    for name, secret in os.environ.items():
        if len(secret) >= SHORTEST and _VARIABLE.search(name):
            text = text.replace(secret, HIDDEN)
    return _LOOKS.sub(HIDDEN, text)


def redact(value: Any) -> Any:
    """A copy of a config without its secrets: values of keys that name one become `***`, texts are as `redact_text` makes them.

    None and empty strings stay: they say that there was none.
    """
    if isinstance(value, Mapping):
        return {k: HIDDEN if item and _is_secret(str(k)) else redact(item) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_command(arguments: Sequence[str]) -> list[str]:
    """Command line arguments without secrets: `a.api_key=X`, `--token X`, `--token=X` and `a={api_key: X}`."""
    shown: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if shown and shown[-1].startswith("-") and "=" not in shown[-1] and _is_secret(shown[-1]):
            shown.append(HIDDEN)
        elif equals and value not in ("", "null") and _is_secret(key):
            shown.append(f"{key}={HIDDEN}")
        else:
            inside = re.sub(
                r"([\w-]+)(\s*:\s*)([^,}\]]+)", lambda m: m[1] + m[2] + (HIDDEN if _is_secret(m[1]) else m[3]), argument
            )
            shown.append(redact_text(inside))
    return shown


def _refusal(where: str) -> ConfigError:
    return ConfigError(
        f"{where}: holds a secret, and settings are kept in files (a sweep's multirun.yaml before any of our code runs); export "
        "it in a variable like OPENAI_API_KEY, name that in api_key_env, and renew the key if this command line was shared"
    )


def refuse_in_command(arguments: Sequence[str]) -> None:
    """Refuse overrides that hold a secret.

    Raises:
        ConfigError: naming the first one, without its value.
    """
    for argument, shown in zip(arguments, redact_command(arguments), strict=True):
        if shown != argument:
            raise _refusal(f"override {shown}")


def refuse_in_config(config: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a resolved config in which a secret stands: in a YAML file, or taken out of the environment by `${oc.env:...}`.

    Raises:
        ConfigError: naming the key, without its value.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            refuse_in_config(value, f"{prefix}{key}.")
        elif redact({key: value}) != {key: list(value) if isinstance(value, tuple) else value}:
            raise _refusal(f"config {prefix}{key}")


def check_variable(setting: str, name: str) -> None:
    """Refuse what cannot be the name of a variable that holds a secret: anything else would not be hidden in texts.

    Args:
        setting: that names the variable.
        name: of the variable.

    Raises:
        ConfigError: without the name where that may be the key itself.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or redact_text(name) != name:
        raise ConfigError(
            f"{setting}: the name of a variable, like OPENAI_API_KEY; got something else, maybe the key itself"
        )
    if not _VARIABLE.search(name):
        raise ConfigError(
            f"{setting}: the name of a variable that ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS, so that its value is "
            f"known for a secret and hidden; got {name!r}; rename the variable"
        )
