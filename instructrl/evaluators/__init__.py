"""Evaluations of policies, and their statistics.

evaluator           what an evaluator is, and how a config names one
results             the files that the evaluation stage writes
preference          judge and labelers: wins, Likert, Table 3 (lab only)
probes              automatic evaluations of appendix D (lab only)
nll                 loss on held-out pretraining text
reward_model        score, length and end of answers, KL from `kl_from`
ranking_accuracy    reward model against baselines on held-out rankings
over_optimization   reward models beside the judge, on answers of their policies
language_model      a policy as text in, text out
statistics          means, intervals, F1, BLEU
"""
