"""The probes with and without examples (Ouyang et al. 2022, Fig. 29 and 28)."""

from instructrl.evaluators import probes


class Evaluator(probes.Evaluator):
  """Runs the probes, and those with examples once more without them.

  Results: as those of `probes`, and 'probes_zero_shot', policy -> task ->
  measure -> summary, for the tasks that have examples in their contexts.
  """

  zero_shot = True
