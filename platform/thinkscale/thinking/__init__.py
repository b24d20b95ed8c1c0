"""Pure semantics of thinking: formats, budget forcing, sweeps, voting, grading."""
