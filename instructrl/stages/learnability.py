r"""Measures what models of one size of the lab learn, by tokens seen.

  python -m instructrl.stages.learnability \
      [--config=experiments/study.py:tiny] [--workdir=runs/learnability]

Runs the lab, pretraining and SFT stages of a study, or continues those of a
study's folder, and evaluates every checkpoint: after pretraining with the
probes, by greedy continuation and exact match; after SFT with the validation
prompts, by the judge. A task belongs in a size that solves more than 80% of it.
"""

from collections.abc import Sequence
import functools
import json
import pathlib

from absl import flags
from ml_collections import config_flags
import numpy as np

from instructrl.evaluators.probes import choose
from instructrl.evaluators.probes import first_line
from instructrl.evaluators.probes import SENTENCE_TOKENS
from instructrl.lab.marking import judge
from instructrl.lab.probes import make_probes
from instructrl.runtime import command
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import lab
from instructrl.stages import opening
from instructrl.stages import policies
from instructrl.stages import runner

MEASURED = ('lab', 'pretrain', 'sft')
WRITTEN = ('facts', 'translation', 'reading')  # exact match of what is written
THRESHOLD = 0.8


def probe_accuracy(lm, probes) -> tuple[dict[str, float], dict[str, int]]:
  """Returns the fraction of right answers and the number of probes, by task."""
  right = {}
  for task in WRITTEN:
    outputs = lm.complete(
      [p.context for p in probes[task]], max_tokens=SENTENCE_TOKENS
    )
    right[task] = [
      first_line(text) in p.answers for text, p in zip(outputs, probes[task])
    ]
  completion = probes['completion']
  chosen = choose(lm, completion, [p.context for p in completion])
  right['completion'] = [
    p.options[int(np.argmax(means))] in p.answers
    for p, (_, means) in zip(completion, chosen)
  ]
  return (
    {task: float(np.mean(found)) for task, found in right.items()},
    {task: len(found) for task, found in right.items()},
  )


def instruction_rates(
  lm, world, prompts, seed: int
) -> tuple[dict[str, float], dict[str, int]]:
  """Grades greedy answers to prompts.

  Returns:
    (row -> mean grade, row -> number of prompts). A row is a use case, 'all
    tasks', or 'constraints': the fraction of a prompt's constraints that its
    answer keeps, over the prompts with constraints.
  """
  responses = lm.respond([p.text for p in prompts], temperature=0.0, seed=seed)
  grades, kept = {}, []
  for prompt, response in zip(prompts, responses):
    a = judge.assess(world, prompt, response)
    grades.setdefault(prompt.use_case, []).append(a.task_done)
    if a.num_constraints:
      kept.append(a.constraints_kept)
  rows = {name: grades[name] for name in sorted(grades)}
  rows['all tasks'] = [g for v in grades.values() for g in v]
  rows['constraints'] = kept
  mean = lambda values: float(np.mean(values)) if values else float('nan')
  return (
    {name: mean(values) for name, values in rows.items()},
    {name: len(values) for name, values in rows.items()},
  )


def table(
  title: str,
  columns: Sequence[str],
  rows: dict[str, list[float]],
  counts: dict[str, int],
) -> str:
  """Returns a Markdown table in per cent, with a mark for learned rows."""
  lines = [
    f'| {title} | ' + ' | '.join(columns) + ' | of | learned |',
    '|---|' + '---|' * (len(columns) + 2),
  ]
  for name, values in rows.items():
    cells = ' | '.join(f'{100 * v:.0f}' for v in values)
    mark = 'yes' if values[-1] > THRESHOLD else 'no'
    lines.append(f'| {name} | {cells} | {counts[name]:,} | {mark} |')
  return '\n'.join(lines)


def measure(config, workdir) -> dict:
  """Runs the stages that are not finished, and evaluates every checkpoint.

  Returns:
    Stage -> tokens seen -> (row -> rate, row -> number of questions).
  """
  workdir = pathlib.Path(workdir)
  for name in MEASURED:
    stage = config.stages[name].copy_and_resolve_references()
    for seed in ('world_seed', 'train_seed', 'eval_seed'):
      stage[seed] = config[seed]
    if name == 'pretrain':
      stage.checkpoint.keep = 100
    runner.run_stage(stage, workdir / name)
  evaluation, seed = config.stages.evaluation, config.eval_seed
  with policies.Opener(evaluation, workdir / 'evaluation') as opened:
    world = lab.load_world(workdir / 'lab')
    probes = make_probes(world, seed, evaluation.evals.probes.num_probes)
    prompts = opened.prompts('validation', evaluation.prompt_len)
    ask = {
      'pretrain': lambda lm: probe_accuracy(lm, probes),
      'sft': lambda lm: instruction_rates(lm, world, prompts, seed),
    }
    return {
      stage: {
        tokens: ask[stage](
          opened.language_model(stage, run, evaluation.response_len)
        )
        for tokens, run in _checkpoints(workdir / stage, opened)
      }
      for stage in ask
    }


def _checkpoints(folder: pathlib.Path, opened: policies.Opener):
  """Yields (tokens seen, the checkpoint opened) of a run."""
  tokens = run_folder.read_done(folder)['result']['tokens_per_step']
  checkpoints = folder / 'checkpoints'
  with Checkpointer(checkpoints) as saved:
    steps = saved.steps()
  for step in steps:
    path = checkpoints / f'{step:08d}'
    yield step * tokens, opening.open_run(path, opened.tok, opened.mesh)


def _main(config_flag, workdir_flag):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'study', 'order'
  )
  command.setup_jax()
  workdir = pathlib.Path(workdir)
  result = measure(config, workdir)
  for stage, found in result.items():
    columns = [f'{tokens / 1e6:.2g}M' for tokens in found]
    _, counts = next(iter(found.values()))
    rows = {
      name: [rates[name] for rates, _ in found.values()] for name in counts
    }
    print(
      table(f'after {stage} on (tokens)', columns, rows, counts), end='\n\n'
    )
  files.atomic_write(
    workdir / 'learnability.json', json.dumps(result, indent=1)
  )


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config', 'experiments/study.py:tiny', 'Config of the study.'
      ),
      flags.DEFINE_string(
        'workdir', 'runs/learnability', 'Folder of the stages, or of a study.'
      ),
    )
  )
