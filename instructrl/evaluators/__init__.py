"""Evaluation of policies: preferences, probes, and their statistics.

`suite.evaluate_policies` runs all of it and returns the figures together with
the samples they come from. The files, from the bottom: `statistics` (means,
intervals, F1, BLEU), `lm` (a policy as a text-level language model), `probes`
(automatic evaluations, paper appendix D), `preference` (judge and held-out
labelers), `suite`.
"""
