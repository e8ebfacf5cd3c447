"""Held-out figures of a study on real data; its report is made from them.

Nobody marks the answers here, so what can be measured is: how often the reward
model orders two responses as the labelers did, beside two baselines; what each
policy's loss on held-out pretraining text is; and what the reward model, which
PPO was trained against, says of each policy's answers. The last tells whether
PPO did what it was asked to, and not whether people would agree.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import math
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from instructrl import masked
from instructrl import rng
from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.folder import VALIDATION_CORPUS
from instructrl.data.records import Ranking
from instructrl.evaluators import statistics
from instructrl.evaluators.lm import LanguageModel
from instructrl.models import heads
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lm
from instructrl.stages import policies
from instructrl.stages import reward

STAGES = ('heldout',)

FORMAT_VERSION = 1
POLICIES = ('base', 'sft', 'ppo', 'ppo_ptx')
FROM_SFT = ('ppo', 'ppo_ptx')  # whose KL is that from SFT
KEPT = 'parts'  # the folder of what was finished before a stop
REWARD_MODEL = 'reward model'  # last of what orders a ranking's responses
ALL = 'all'  # data sets together


def validate(config):
  """Refuses what makes no sense, by field name."""
  checks.validate_common(config)
  checks.validate_positive(
    config,
    'num_prompts',
    'num_rows',
    'prompt_len',
    'response_len',
    'batch_size',
  )
  checks.require(
    0 < config.temperature < math.inf,
    f'temperature={config.temperature} must be positive and finite',
  )
  checks.require(
    any(config.inputs[name] for name in POLICIES),
    f'inputs: one of {", ".join(POLICIES)} is needed',
  )


def pair_counts(
  scores: Sequence[float], ranks: Sequence[int]
) -> tuple[float, int]:
  """(pairs ordered as the ranks say, pairs) of one ranking.

  Args:
    scores: [K], higher is better; a tie of scores is half right.
    ranks: [K], 0 = best; pairs of equal rank do not count.
  """
  right, total = 0.0, 0
  for i, j in itertools.permutations(range(len(ranks)), 2):
    if ranks[i] < ranks[j]:
      total += 1
      right += 0.5 * (1 + np.sign(scores[i] - scores[j]))
  return right, total


def accuracies(
  rankings: Sequence[Ranking], scores: Mapping[str, Sequence], *, seed: int
) -> dict:
  """Data set -> {'judges': summaries, 'difference': of the last to others}.

  Args:
    rankings: N of them; what an id has before its last '/' names its data set.
    scores: judge -> [N][K].
    seed: of the bootstrap, which draws prompts.
  """
  places = collections.defaultdict(list)
  for i, ranking in enumerate(rankings):
    if len(set(ranking.ranks)) > 1:  # a full tie has no pair
      places[ALL].append(i)
      places[data_set(ranking)].append(i)
  if len(places) == 2:
    del places[ALL]
  found = {}
  for name, rows in places.items():
    measures = {
      judge: statistics.ratio(
        *zip(*(pair_counts(values[i], rankings[i].ranks) for i in rows))
      )
      for judge, values in scores.items()
    }
    judges, differences = statistics.compare(measures, seed=seed)
    last = [*measures][-1]
    found[name] = {
      'judges': judges,
      'difference': differences.get(last, {}),
      'pairs': int(measures[last].stats[:, 1].sum()),
      'prompts': len(rows),
    }
  return found


def data_set(ranking: Ranking) -> str:
  """The data set that a ranking came from."""
  return ranking.prompt.id.rpartition('/')[0] or 'rankings'


def run(config, workdir, label: str = '') -> dict:
  """Writes results.json and samples.jsonl; returns what DONE says.

  After a stop it goes on with the policy that it was at.
  """
  validate(config)
  workdir = pathlib.Path(workdir)
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
  with policies.Opener(config, workdir) as opened:
    names = [name for name in POLICIES if config.inputs[name]]
    with Progress(
      config.stage,
      1 + 2 * len(names),
      label=label,
      unit='part',
      primary=processes.primary(),
    ) as progress:
      found = _Evaluation(config, opened, names, progress, workdir / KEPT).run()
  results, samples = found
  if processes.primary():
    files.atomic_write(
      workdir / 'samples.jsonl',
      ''.join(
        json.dumps(sample, ensure_ascii=False) + '\n' for sample in samples
      ),
    )
    files.atomic_write(workdir / 'results.json', json.dumps(results, indent=1))
    shutil.rmtree(workdir / KEPT, ignore_errors=True)
  return {
    'prompts': len(samples),
    **{
      f'accuracy/{name}': part['judges'][REWARD_MODEL]['value']
      for name, part in results['accuracy'].items()
    },
  }


@dataclasses.dataclass
class _Answers:
  """What a policy said to the held-out prompts."""

  tokens: list[list[int]]  # [N] responses
  scores: np.ndarray  # [N] float32, of the reward model
  logprobs: np.ndarray | None  # [N] float32, nats, its own; of `FROM_SFT`
  nll: tuple[list, list] | None  # of held-out rows: [R] nats, [R] tokens


class _Evaluation:
  """One evaluation; its parts are one after another in memory."""

  def __init__(
    self, config, opened: policies.Opener, names, progress, kept: pathlib.Path
  ):
    self._config, self._opened, self._names = config, opened, names
    self._progress, self._done, self._folder = progress, 0, kept

  def _tell(self, text: str, parts: int = 1):
    self._done += parts
    self._progress.update(self._done)
    self._progress.message(text)

  def _kept(self, name: str, make: Callable[[], Any], parts: int = 1):
    """What `make` gives, as JSON has it; only the first time it is called."""
    path = self._folder / f'{name}.json'
    if processes.agree(path.is_file()):
      self._tell(f'{name}: finished before', parts)
      return files.read_json(path)
    found = make()
    if processes.primary():
      self._folder.mkdir(exist_ok=True)
      files.atomic_write(path, json.dumps(found))
    return found

  def run(self) -> tuple[dict, list[dict]]:
    config, seed = self._config, self._config.eval_seed
    prompts = self._opened.prompts('validation', config.prompt_len)
    prompts = prompts[: config.num_prompts]
    laid_out = [tasks.chat_prompt(self._opened.tok, p) for p in prompts]
    params, scorer, trained = reward.load_scorer(self._opened)
    accuracy = self._kept(
      'accuracy', lambda: self._accuracy(params, scorer, trained)
    )

    def answer(name):
      policy = self._opened.policy(name, config.response_len)
      nll = self._nll(policy)
      tokens = [
        [int(t) for t in row]
        for row in policy.sample_tokens(
          prompts,
          temperature=config.temperature,
          seed=seed,
          purpose=rng.Purpose.EVALUATION,
        )
      ]
      scores = scorer(params, laid_out, tokens)
      logprobs = (
        policy.engine.score(policy.params, laid_out, tokens)
        if name in FROM_SFT
        else None
      )
      self._tell(f'{name}: score {scores.mean():.3f}')
      return {
        'tokens': tokens,
        'scores': scores.tolist(),
        'nll': nll,
        'logprobs': None if logprobs is None else logprobs.tolist(),
      }

    answers, of_sft = {}, {}
    for name in self._names:
      found = self._kept(name, functools.partial(answer, name), parts=2)
      answers[name] = _Answers(
        **found
        | {
          key: np.asarray(found[key], np.float32)
          for key in ('scores', 'logprobs')
          if found[key] is not None
        }
      )
    others = [name for name in FROM_SFT if name in answers]
    if 'sft' in answers and others:  # how far did they go from their start?
      policy = self._opened.policy('sft', config.response_len)
      of_sft = {
        name: policy.engine.score(policy.params, laid_out, answers[name].tokens)
        for name in others
      }
    results = {
      'format_version': FORMAT_VERSION,
      'accuracy': accuracy,
      **_figures(answers, of_sft, self._opened.tok.eos_id, seed),
    }
    return results, self._samples(prompts, answers)

  def _accuracy(self, params, scorer, trained) -> dict:
    """Of the reward model and the baselines on held-out rankings."""
    tok, config = self._opened.tok, self._config
    rankings, prompts, responses = [], [], []
    for ranking in inputs.records(
      self._opened, 'rankings', 'rankings', 'validation'
    ):
      prompt = tasks.chat_prompt(tok, ranking.prompt)
      if tasks.fits(prompt, config.prompt_len):
        rankings.append(ranking)
        prompts += [prompt] * len(ranking.responses)
        responses += [list(t) for t in ranking.response_tokens]
    checks.require(
      bool(rankings),
      'inputs.rankings has no validation ranking '
      f'whose prompt fits prompt_len={config.prompt_len}',
    )
    untrained = {
      'backbone': self._opened.open('reward_init').params,
      'head': heads.init_head(
        rng.key(trained.train_seed, rng.Purpose.HEAD_INIT),
        trained.model.d_model,
      ),
    }
    flat = {
      'longer is better': np.asarray([len(r) for r in responses], np.float32),
      'untrained head': scorer(untrained, prompts, responses),
      REWARD_MODEL: scorer(params, prompts, responses),
    }
    ends = np.cumsum([len(r.responses) for r in rankings])[:-1]
    found = accuracies(
      rankings,
      {name: np.split(x, ends) for name, x in flat.items()},
      seed=config.eval_seed,
    )
    self._tell(
      'reward model: '
      + ', '.join(
        f'{100 * part["judges"][REWARD_MODEL]["value"]:.1f}% of {name}'
        for name, part in found.items()
      )
    )
    return found

  def _nll(self, policy: LanguageModel) -> tuple[list, list] | None:
    """(nats, tokens) of each held-out pretraining row; None without them."""
    config = self._config
    data = inputs.data_folder(self._opened)
    if not data.has_rows(VALIDATION_CORPUS):
      return None
    rows = data.rows(VALIDATION_CORPUS, self._opened.tok)
    model = policy.engine.model
    nll_fn = jax.jit(
      lambda params, batch: (
        masked.masked_sum(
          -lm.batch_logprobs(model, params, batch, policy.engine.logits_chunk),
          batch.loss_mask,
          axis=1,
        ),
        batch.loss_mask.sum(axis=1),
      ),
      out_shardings=sharding.replicated(self._opened.mesh),
    )
    size = config.batch_size
    read = sharding.process_rows(self._opened.mesh, size)
    batches = pipeline.lm_batches(
      rows, size, 0, shuffle=False, rows_read=read
    ).once()
    sums, counts = [], []
    for batch in itertools.islice(batches, -(-config.num_rows // size)):
      found = processes.fetch(
        nll_fn(policy.params, sharding.put_batch(batch, self._opened.mesh))
      )
      sums += found[0].tolist()
      counts += found[1].tolist()
    last = min(config.num_rows, len(rows))
    self._tell(
      f'{policy.name}: {sum(sums) / sum(counts):.3f} nats a token of '
      'held-out text'
    )
    return sums[:last], counts[:last]

  def _samples(self, prompts, answers: Mapping[str, _Answers]) -> list[dict]:
    tok = self._opened.tok
    return [
      {
        'prompt': prompt.text,
        'turns': list(prompt.turns),
        'id': prompt.id,
        'policies': {
          name: {
            'response': tok.decode(a.tokens[i]).strip(),
            'score': float(a.scores[i]),
            'tokens': len(a.tokens[i]),
            'ended': tok.eos_id in a.tokens[i],
          }
          for name, a in answers.items()
        },
      }
      for i, prompt in enumerate(prompts)
    ]


def _figures(
  answers: Mapping[str, _Answers], of_sft, eos_id: int, seed: int
) -> dict:
  """name -> {'policies': summaries, 'difference': left -> right -> summary}.

  A difference is that of a policy to one before it in `POLICIES`.
  """
  mean = lambda of: {
    name: statistics.mean(of(a)) for name, a in answers.items()
  }
  measures = {
    'nll': {
      name: statistics.ratio(*a.nll) for name, a in answers.items() if a.nll
    },
    'score': mean(lambda a: a.scores),
    'length': mean(lambda a: [len(t) for t in a.tokens]),
    'ended': mean(lambda a: [float(eos_id in t) for t in a.tokens]),
    'kl': {
      name: statistics.mean(answers[name].logprobs - logprobs)
      for name, logprobs in of_sft.items()
    },
  }
  found = {}
  for name, measured in measures.items():
    if measured:
      summaries, differences = statistics.compare(measured, seed=seed)
      found[name] = {'policies': summaries, 'difference': differences}
  return found
