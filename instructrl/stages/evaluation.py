"""The evaluation stage: the evaluations of a config on its policies.

It writes results.json and samples.jsonl. `evaluators.results` describes and
reads their format.
"""

import json
import pathlib
import shutil

from instructrl.evaluators import evaluator
from instructrl.evaluators import results
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import policies
from instructrl.stages import policy_settings
from instructrl.stages import prefixes

STAGES = ('evaluation',)
KEPT = 'parts'  # the folder of what was finished before a stop
PREFIX = 'prefix'  # its folder for the choice of a few-shot prefix
OUTCOME = 'whole.outcome'  # a part; names of policies have no dot


def validate(config) -> None:
  """Raises a ConfigError that names the field if a config is invalid."""
  checks.validate_common(config)
  checks.positive(config, 'prompt_len', 'response_len', 'batch_size')
  prefixes.validate(config)
  names = policy_settings.named(config)
  checks.require(bool(names), 'policies: give one or more')
  checks.require(
    evaluator.VALUE not in names,
    f'policies.{evaluator.VALUE}: results use this name; take another one',
  )
  checks.require(bool(evals.chosen(config)), 'evals: give one or more')
  checks.require(
    PREFIX not in config.evals, f'evals.{PREFIX}: take another name'
  )
  evals.validate(config)


def run(config, workdir, label: str = '') -> dict:
  """Evaluates all policies. A run that was stopped keeps its finished parts."""
  validate(config)
  workdir = pathlib.Path(workdir)
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
  names = list(evals.chosen(config))
  with (
    policies.Opener(config, workdir) as opened,
    Progress(
      config.stage,
      len(names),
      label=label,
      unit='evaluation',
      primary=processes.primary(),
    ) as progress,
  ):
    shared, models = evals.Shared(opened), policies.Policies(opened)
    context = lambda name: evals.StageContext(
      shared,
      prompt_len=config.prompt_len,
      response_len=config.response_len,
      progress=lambda text: progress.message(f'{name}: {text}'),
      kept_in=workdir / KEPT / name,
    )
    prefix = None
    if policy_settings.PROMPTED in models:
      prefix = context(PREFIX).kept(
        OUTCOME,
        lambda: prefixes.choose(opened, models, lambda: shared.reward_model),
      )
      models.few_shot = prefix['texts'][prefix['chosen']]
    found = {}
    for number, name in enumerate(names, 1):
      with evals.named(name):
        fields = config.evals[name].to_dict()
        outcome = _evaluate(context(name), fields, models)
      found[name] = config.evals[name].type, outcome
      progress.update(number)
  if processes.primary():
    content, samples = results.collect(policy_settings.shown(models), found)
    files.write_jsonl(workdir / results.SAMPLES, samples)
    files.atomic_write(workdir / results.RESULTS, json.dumps(content, indent=1))
    shutil.rmtree(workdir / KEPT, ignore_errors=True)
  return {
    'policies': list(models),
    'evals': names,
    'samples': sum(len(outcome.samples) for _, outcome in found.values()),
    **({'prefix': prefix} if prefix else {}),
  }


def _evaluate(context, fields: dict, models) -> evaluator.Outcome:
  """Runs one evaluation, or reads what it gave before a stop."""

  def make():
    outcome = evals.outcome(evals.make(context, fields), models)
    return {'results': outcome.results, 'samples': outcome.samples}

  return evaluator.Outcome(**context.kept(OUTCOME, make))
