"""What a size of the lab is able to learn, against the tokens it has seen.

  python -m instructrl.lab.learnability [--config=experiments/study.py:tiny] \
      [--workdir=runs/learnability]

Runs the lab, pretraining and SFT stages of a study (or goes on with those of a
study's folder), and asks every checkpoint: the probes' questions after
pretraining, by greedy continuation and exact match, and the validation prompts
after SFT, by the judge. A capability belongs in a size that gets it above 80%.
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
from instructrl.stages import policies
from instructrl.stages import runner

MEASURED = ('lab', 'pretrain', 'sft')
WRITTEN = ('facts', 'translation', 'reading')  # exact match of what is written
THRESHOLD = 0.8


def probe_accuracy(lm, probes) -> tuple[dict[str, float], dict[str, int]]:
  """Fraction right of each task, greedily, up to the first line break, and the
  numbers of questions.
  """
  found = {}
  for task in WRITTEN:
    outputs = lm.complete(
      [p.context for p in probes[task]], max_tokens=SENTENCE_TOKENS
    )
    found[task] = float(
      np.mean(
        [
          first_line(text) in p.answers
          for text, p in zip(outputs, probes[task])
        ]
      )
    )
  chosen = choose(
    lm, probes['completion'], [p.context for p in probes['completion']]
  )
  found['completion'] = float(
    np.mean(
      [
        p.options[int(np.argmax(means))] in p.answers
        for p, (_, means) in zip(probes['completion'], chosen)
      ]
    )
  )
  return found, {name: len(probes[name]) for name in found}


def instruction_rates(
  lm, world, prompts, seed: int
) -> tuple[dict[str, float], dict[str, int]]:
  """Mean task grade by use case of greedy answers, and the numbers of prompts.

  `constraints` is how many of its constraints an answer keeps, of those that
  have any.
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
  return (
    {
      name: float(np.mean(v)) if v else float('nan') for name, v in rows.items()
    },
    {name: len(v) for name, v in rows.items()},
  )


def table(
  title: str,
  columns: Sequence[str],
  rows: dict[str, list[float]],
  counts: dict[str, int],
) -> str:
  """A markdown table in per cent; a row that reaches the threshold says so."""
  lines = [
    f'| {title} | ' + ' | '.join(columns) + ' | of | learned |',
    '|---|' + '---|' * (len(columns) + 2),
  ]
  for name, values in rows.items():
    cells = ' | '.join(f'{100 * v:.0f}' for v in values)
    mark = 'yes' if values[-1] > THRESHOLD else 'no'
    lines.append(f'| {name} | {cells} | {counts[name]:,} | {mark} |')
  return '\n'.join(lines)


def _steps(path) -> list[int]:
  with Checkpointer(path / 'checkpoints') as saved:
    return saved.steps()


def measure(config, workdir) -> dict:
  """Runs what is not finished, and asks every checkpoint that is there.

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
  evaluation = config.stages.evaluation
  with policies.Opener(evaluation, workdir / 'evaluation') as opened:
    return _ask_all(config, workdir, opened)


def _ask_all(config, workdir: pathlib.Path, opened: policies.Opener):
  evaluation = config.stages.evaluation
  world = lab.load_world(workdir / 'lab')
  probes = make_probes(
    world, config.eval_seed, evaluation.evals.probes.num_probes
  )
  prompts = opened.prompts('validation', evaluation.prompt_len)
  result = {}
  for stage, name, ask in (
    ('pretrain', 'base', lambda lm: probe_accuracy(lm, probes)),
    (
      'sft',
      'sft',
      lambda lm: instruction_rates(lm, world, prompts, config.eval_seed),
    ),
  ):
    per_step = run_folder.read_done(workdir / stage)['result'][
      'tokens_per_step'
    ]
    result[stage] = {
      step * per_step: ask(
        opened.policy(name, evaluation.response_len, step=str(step))
      )
      for step in _steps(workdir / stage)
    }
  return result


def _main(config_flag, workdir_flag):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'study', 'order'
  )
  command.setup_jax()
  workdir = pathlib.Path(workdir)
  result = measure(config, workdir)
  for stage, title in (
    ('pretrain', 'after pretraining on (tokens)'),
    ('sft', 'after SFT on (tokens)'),
  ):
    found = result[stage]
    columns = [f'{tokens / 1e6:.2g}M' for tokens in found]
    _, counts = next(iter(found.values()))
    print(
      table(
        title,
        columns,
        {name: [rates[name] for rates, _ in found.values()] for name in counts},
        counts,
      )
    )
    print()
  files.atomic_write(
    workdir / 'learnability.json', json.dumps(result, indent=1)
  )


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config', 'experiments/study.py:tiny', 'The study.'
      ),
      flags.DEFINE_string(
        'workdir', 'runs/learnability', 'Where the stages go, or a study.'
      ),
    )
  )
