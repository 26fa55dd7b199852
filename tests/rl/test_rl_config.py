"""What the rl, hint and reward sections refuse, and in which words."""

import pytest
from toys import hint_config, rl_config, weights

from runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "nudge"}, r"hint.strategy: one of \('none', 'polarity', .*\); got 'nudge'; mend the config"),
        ({"when": "never"}, r"hint.when: one of \('stuck', 'always'\); got 'never'; mend the config"),
        ({"rows": "two"}, r"hint.rows: one of \('share', 'one', 'all'\); got 'two'; mend the config"),
        (
            {"schedule": "linear"},
            r"hint.schedule: one of \('constant', 'cosine', 'ema'\); got 'linear'; mend the config",
        ),
        ({"warmup": 1.5}, r"hint.warmup: in \[0, 1\]; got 1.5; mend the config"),
        ({"ema_decay": -0.1}, r"hint.ema_decay: in \[0, 1\]; got -0.1; mend the config"),
        ({"ema_off": 2}, r"hint.ema_off: in \[0, 1\]; got 2; mend the config"),
        ({"start": -1}, r"hint.start: in \[0, 1\]; got -1; mend the config"),
        ({"target": 1.1}, r"hint.target: in \[0, 1\]; got 1.1; mend the config"),
        ({"gain": -0.5}, r"hint.gain: 0 or more; got -0.5; mend the config"),
        ({"likelihood": -1.0}, r"hint.likelihood: 0 or more; got -1.0; mend the config"),
        (
            {"strategy": "query", "prefix": "learnt"},
            "hint.prefix=learnt: learns the opening that a hint forces, and hint.strategy=query forces none, it speaks in the "
            "question; use hint.prefix=masked or weighted",
        ),
        (
            {"strategy": "self", "prefix": "likelihood"},
            "hint.prefix=likelihood: learns the opening .*hint.strategy=self forces none",
        ),
        (
            {"strategy": "query", "prefix": "weighted", "rows": "all"},
            "hint.prefix=weighted: rows whose hint is in the question .* and hint.rows=all leaves no others; use hint.rows=share",
        ),
        (
            {"rows": "all", "when": "always", "schedule": "ema"},
            "hint.schedule=ema: looks at unhinted rows, and hint.rows=all with hint.when=always leaves none; use hint.rows=share",
        ),
        (
            {"rows": "one", "baseline": "context"},
            "hint.baseline=context: compares hinted rows .*, and hint.rows=one leaves one, .* use hint.baseline=shared",
        ),
        ({"rows": "all", "when": "always", "baseline": "context"}, "hint.baseline=context: looks at unhinted rows"),
        ({"baseline": "mean"}, r"hint.baseline: one of \('shared', 'context'\); got 'mean'; mend the config"),
        ({"prefix": "loss"}, r"hint.prefix: one of \('masked', .*'learnt'\); got 'loss'; mend the config"),
        ({"share": 0.0}, r"hint.share: in \(0, 1\), so that at least one row stays unhinted; got 0.0"),
        ({"share": 1.0}, r"hint.share: in \(0, 1\), so that at least one row stays unhinted; got 1.0"),
    ],
)
def test_hint_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        hint_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "rl.max_steps: 1 or more; got 0; mend the config"),
        ({"prompts": 0}, "rl.prompts: 1 or more; got 0"),
        ({"parity_every": 0}, "rl.parity_every: 1 or more; got 0"),
        ({"eval_every": -1}, "rl.eval_every: 0 or more; got -1; mend the config"),
        ({"group": 1}, "rl.group: 2 or more, advantages compare siblings; got 1; mend the config"),
        ({"prompts": 3, "accumulation": 2}, "rl.prompts: a multiple of rl.accumulation=2; got 3; mend the config"),
        (
            {"save_every": 25, "iterations": 2},
            "rl.save_every: a multiple of rl.iterations=2, because a checkpoint does not hold the rollouts .*; got 25; mend",
        ),
        ({"no_signal": "skip"}, r"rl.no_signal: one of \('keep', 'drop', 'resample'\); got 'skip'; mend the config"),
        ({"budget": 0}, "rl.budget: null, or 1 or more tokens; got 0; mend the config"),
        ({"order": "easy"}, r"rl.order: one of \('none', 'hard_first', 'balanced'\); got 'easy'; mend the config"),
        ({"hard_below": 0}, r"rl.hard_below: in \(0, 1\]; got 0; mend the config"),
        ({"resamples": -1}, "rl.resamples: 0 or more; got -1; mend the config"),
        ({"scale": "batch"}, r"rl.scale: one of \('none', 'group'\); got 'batch'; mend the config"),
        ({"loss": "ppo"}, "rl.loss: one of .*'dr_grpo'.*; got 'ppo'; mend the config"),
        (
            {"schedule": "cosin"},
            r"rl.schedule: one of \('constant', 'linear', 'cosine'\); got 'cosin'; mend the config",
        ),
        ({"lr": 0.0}, r"rl: lr > 0, .*; got lr=0.0 temperature=1.0 beta=0.0 warmup=0.0; mend the config"),
        ({"temperature": 0.0}, "got lr=0.001 temperature=0.0"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"iterations": 0}, "rl.iterations: 1 or more; got 0; mend the config"),
        ({"scoring": "tree"}, r"rl.scoring: one of \('auto', 'packed', 'cache', 'rows'\); got 'tree'; mend the config"),
        (
            {"gradient_checkpointing": True, "scoring": "cache"},
            "rl.scoring=cache: does not go with rl.gradient_checkpointing=true, .* drop the key/value cache .*; "
            "set rl.scoring=auto",
        ),
    ],
)
def test_rl_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        rl_config(**changes)


def test_reward_weights_are_checked():
    with pytest.raises(
        ConfigError, match=r"must name exactly the parts \['agreement', .*\]; got .*'style'.*; edit conf/reward"
    ):
        weights(style=1.0)
    with pytest.raises(ConfigError, match=r"reward.weights: 0 or more, at least one above 0; got .*; edit conf/reward"):
        weights(format=-1.0)
    with pytest.raises(ConfigError, match="at least one above 0"):
        weights(format=0.0, discriminate=0.0, calibrate=0.0, agreement=0.0)
