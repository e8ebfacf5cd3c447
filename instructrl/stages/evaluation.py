"""The evaluation stage: every policy on held-out prompts and on the probes."""

import dataclasses
import json
import math
import pathlib

from instructrl.evaluators import suite
from instructrl.lab import probes
from instructrl.lab.marking import judge
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import policies

STAGES = ('evaluation',)


def validate(config):
  checks.validate_common(config)
  checks.validate_positive(
    config,
    'num_prompts',
    'num_probes',
    'num_documents',
    'num_shots',
    'prompt_len',
    'response_len',
    'batch_size',
  )
  checks.require(
    0 < config.temperature < math.inf,
    f'temperature={config.temperature} must be positive and finite',
  )


def load_labelers(opened: policies.Opener, world) -> list:
  """The lab's labelers with the noise that was set for the rankings."""
  path = opened.input('rankings') / 'noise.json'
  noise = files.read_json(path)
  labelers = lab.load_labelers(world)
  missing = [l.name for l in labelers if l.name not in noise]
  checks.require(not missing, f'{path} has no labeler {", ".join(missing)}')
  return [dataclasses.replace(l, noise=noise[l.name]) for l in labelers]


def run(config, workdir, label: str = '') -> dict:
  """Writes results.json and samples.jsonl of all policies."""
  validate(config)
  workdir = pathlib.Path(workdir)
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
  with policies.Opener(config, workdir) as opened:
    return _evaluate(config, workdir, opened, label)


def _evaluate(
  config, workdir: pathlib.Path, opened: policies.Opener, label: str
) -> dict:
  world = lab.load_world(opened.input('data'))
  labelers = load_labelers(opened, world)
  models = policies.Policies(opened)
  prompts = opened.prompts('test', config.prompt_len)
  documents = inputs.records(opened, 'data', 'corpus', 'validation')
  documents = [
    documents[i].text for i in range(min(config.num_documents, len(documents)))
  ]
  with Progress(
    config.stage, 100, label=label, unit='%', primary=processes.primary()
  ) as progress:

    def advance(done, total, what):
      progress.update(round(100 * done / total))
      progress.message(what)

    found = suite.evaluate_policies(
      models,
      prompts[: config.num_prompts],
      world,
      judge.Judge(world, labelers),
      [l for l in labelers if l.group == 'heldout'],
      probes.make_probes(world, config.eval_seed, config.num_probes),
      documents,
      seed=config.eval_seed,
      temperature=config.temperature,
      progress=advance,
    )
  if processes.primary():
    files.atomic_write(
      workdir / 'samples.jsonl',
      ''.join(
        json.dumps(sample, ensure_ascii=False) + '\n'
        for sample in found.samples
      ),
    )
    files.atomic_write(
      workdir / 'results.json', json.dumps(found.results, indent=1)
    )
  return {
    'prompts': min(config.num_prompts, len(prompts)),
    'preference': found.results['preference'],
  }
