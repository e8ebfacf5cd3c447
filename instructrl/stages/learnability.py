r"""Measures what models of one size of the lab learn, by tokens seen.

  python -m instructrl.stages.learnability \
      [--config=experiments/study.py:tiny] [--workdir=runs/learnability]

Runs the lab, pretraining and SFT stages of a study, or continues those of a
study's folder, and evaluates every checkpoint: after pretraining with the
probes of the alignment tax, by each measure of the evaluation; after SFT with
the validation prompts, by the judge. A use case belongs in a size that solves
more than 80% of it. A task of the tax has room to lose and to gain from 60% to
95%.
"""

from collections.abc import Sequence
import functools
import json
import pathlib

from absl import flags
from ml_collections import config_flags
import numpy as np

from instructrl.evaluators.probes import evaluate_probes
from instructrl.evaluators.results import TAX_MEASURES
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
# Ranges of the last column that a table marks: prompts, tasks of the tax.
LEARNED = 'learned', 0.8, 1.0
ROOM = 'has room', 0.6, 0.95


def probe_rates(lm, probes, world) -> tuple[dict[str, float], dict[str, int]]:
  """Returns task -> measure in [0, 1], and task -> number of probes.

  A second row of a task, 'TASK: FORM', has the mean score of one kind of its
  questions.
  """
  asked = {task: probes[task] for task in TAX_MEASURES if task in probes}
  measures, samples = evaluate_probes(lm, asked, (), world)
  rates, counts = {}, {}
  for task, found in asked.items():
    value = measures[f'{task}/{TAX_MEASURES[task]}'].value
    rates[task] = value / 100 if task == 'translation' else value
    counts[task] = len(found)
    forms = {probe.id: probe.meta.get('form', '') for probe in found}
    scores: dict[str, list[float]] = {}
    for sample in samples:
      if forms.get(sample['id']):
        scores.setdefault(forms[sample['id']], []).append(sample['score'])
    for form, values in sorted(scores.items()):
      rates[f'{task}: {form}'] = float(np.mean(values))
      counts[f'{task}: {form}'] = len(values)
  return rates, counts


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
  mark: tuple[str, float, float] = LEARNED,
) -> str:
  """Returns a Markdown table in per cent; its last column is a mark.

  Args:
    title: of the first column.
    columns: titles of the values.
    rows: name -> values in [0, 1].
    counts: name -> number of questions.
    mark: title, low, high: whether the last value is between the two.
  """
  name, low, high = mark
  lines = [
    f'| {title} | ' + ' | '.join(columns) + f' | of | {name} |',
    '|---|' + '---|' * (len(columns) + 2),
  ]
  for name, values in rows.items():
    cells = ' | '.join(f'{100 * v:.0f}' for v in values)
    said = 'yes' if low < values[-1] <= high else 'no'
    lines.append(f'| {name} | {cells} | {counts[name]:,} | {said} |')
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
      'pretrain': lambda lm: probe_rates(lm, probes, world),
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
      table(
        f'after {stage} on (tokens)',
        columns,
        rows,
        counts,
        ROOM if stage == 'pretrain' else LEARNED,
      ),
      end='\n\n',
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
