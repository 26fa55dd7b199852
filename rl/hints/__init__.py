"""What stuck prompts are told, when, and how the rows that were told count: each answer one small choice.

forms.py    what a hint says, for each strategy, and where it stands
lint.py     what a hint must not say
control.py  when hints are given: warm-up, schedule, controller; what is remembered from step to step
"""
