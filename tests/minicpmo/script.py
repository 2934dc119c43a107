"""Puts given tokens in place of those that the tiny models draw, which say nothing readable."""

from attrs import define, evolve, field

from omni.minicpmo.work import Draw, Drawn


@define
class Script:
    """Tokens by slot; where a slot has none (left), its own are taken. Give it to the engine."""

    tokens: dict[int, list[int]] = field(factory=dict)

    def __call__(self, slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        left = self.tokens.get(slot)
        return evolve(drawn, token=left.pop(0)) if left else drawn
