"""The validation reward: the score of PPO's averaged policy on new prompts.

Appendix E of Ouyang et al. 2022 plots it against the coefficients of PPO. The
score in training is of the training prompts and of the policy before its
average.
"""

from collections.abc import Callable, Sequence

import numpy as np

from instructrl.data import pipeline
from instructrl.data.records import Prompt
from instructrl.evaluators import statistics
from instructrl.rewards.protocol import Episodes
from instructrl.runtime import processes
from instructrl.stages import ppo_steps
from instructrl.stages.ppo_program import PPOProgram
from instructrl.stages.run import Run
from instructrl.types import Params, TrainState


def measure(
  run: Run,
  program: PPOProgram,
  score: Callable,
  state: TrainState,
  average: Params,
  prompts: tuple[Sequence[Prompt], Sequence[Sequence[int]]],
) -> dict[str, dict]:
  """Samples one response of the average to each prompt, and scores it.

  Args:
    run: the open run.
    program: the functions of PPO.
    score: (state, prompts, responses, make_episodes) -> (rollout, metrics).
    state: the state after the last iteration.
    average: the averaged policy's parameters, on the devices.
    prompts: records and tokens of N prompts.

  Returns:
    'reward' (the weighted sum of config.rewards) and 'kl' (nats per response
    from the KL reference), each as {'value', 'ci95', 'n'}.
  """
  records, tokens = prompts
  tok, s = run.tokenizer(), program.settings
  batches = pipeline.prompt_batches(
    tokens,
    s.batch_size,
    run.config.train_seed,
    prompt_len=s.prompt_len,
    pad_id=tok.pad_id,
    rows_read=run.rows(s.batch_size),
  )
  found: dict[str, list] = {'reward': [], 'kl': []}
  for number, batch in enumerate(batches.once()):
    # The last batch is filled up with copies of the last prompt.
    rows = number * s.batch_size + np.arange(s.batch_size)
    rows = np.minimum(rows, len(tokens) - 1)

    def episodes(responses, rows=rows):
      shown = [records[i] for i in rows], [tokens[i] for i in rows]
      texts = ppo_steps.unpadded(processes.fetch(responses))
      return Episodes(*shown, texts, tok)

    batch = run.put(batch)
    # Training draws its responses at the steps before.
    step = np.int32(s.num_iterations + number)
    responses = program.generate(average, batch, program.seed, step)
    rollout, _ = score(state, batch, responses, episodes)
    rollout = processes.fetch(rollout)
    found['reward'] += np.asarray(rollout.scores).tolist()
    found['kl'] += np.asarray(rollout.kl).sum(axis=1).tolist()
  return {
    name: statistics.summarize(
      statistics.mean(values[: len(tokens)]), seed=run.config.eval_seed
    )
    for name, values in found.items()
  }
