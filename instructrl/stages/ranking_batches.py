"""Rankings as batches, for the stages that train on them.

K responses per prompt, N rankings.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.ranked import RankedTokens
from instructrl.data.sequences import Mapped
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import ranking_parts
from instructrl.stages.run import Run
from instructrl.types import RankingBatch

WINDOW = 16  # batches among which rankings of similar length are grouped


def labeler_groups(run: Run, tok, rankings: RankedTokens) -> np.ndarray:
  """Returns the group of each ranking's labeler, 'train' or 'heldout'.

  With config.num_folds, the training labelers are divided among that many
  folds, and those of config.fold are held out (Ouyang et al. 2022, appendix
  E.2). Labelers that are in no fold, or that the records hold out, are then in
  neither group: ''.
  """
  config = run.config
  if not config.num_folds:
    return rankings.groups
  training = inputs.ranked(run, 'train', tok)
  training = training.where(training.groups == 'train')
  counts = collections.Counter(training.labelers.tolist())
  checks.require(
    len(counts) >= config.num_folds,
    f'num_folds must be at most {len(counts)}, the training labelers of '
    f'inputs.rankings; got {config.num_folds}',
  )
  folds = equal_folds(counts, config.num_folds)
  groups = {
    name: 'heldout' if fold == config.fold else 'train'
    for name, fold in folds.items()
  }
  return rankings.by_labeler(groups, '')


def equal_folds(counts: Mapping[str, int], num_folds: int) -> dict[str, int]:
  """Divides labelers among folds with about equal data (E.2).

  Args:
    counts: labeler -> number of training rankings.
    num_folds: number of folds.

  Returns:
    labeler -> fold. All folds have as many labelers; those with the fewest
    rankings are in no fold if their number does not divide.
  """
  names = sorted(counts, key=lambda name: (-counts[name], name))
  rounds = len(names) // num_folds
  folds = {}
  for i, name in enumerate(names[: rounds * num_folds]):
    turn, fold = divmod(i, num_folds)
    # Every second round is dealt backwards, which evens out the amounts.
    folds[name] = fold if turn % 2 == 0 else num_folds - 1 - fold
  return folds


def load_rankings(
  run: Run, tok, split: str, group: str | None = None
) -> tuple[RankedTokens, int]:
  """Returns (elements, number dropped) of a split of inputs.rankings.

  Args:
    run: the open run.
    tok: the tokenizer.
    split: name of the split.
    group: labeler group; all labelers by default.
  """
  rankings = inputs.ranked(run, split, tok)
  if group:
    rankings = rankings.where(labeler_groups(run, tok, rankings) == group)
  return _usable(run.config, rankings, split, group)


def _usable(
  config, rankings: RankedTokens, split: str, group: str | None
) -> tuple[RankedTokens, int]:
  """Returns what `load_rankings` returns, for rankings of one group."""
  for field, found in (
    ('max_responses', rankings.columns.k[rankings.rows]),
    ('response_len', rankings.longest),
  ):
    most = int(found.max(initial=0))
    checks.require(
      most <= config[field],
      f'{field} must be at least {most}, as in inputs.rankings; got '
      f'{config[field]}',
    )
  if config.shuffled_pairs and split == 'train':
    rankings = rankings.pairs()
  elements = rankings.where(rankings.prompt_lengths <= config.prompt_len)
  checks.require(
    bool(elements),
    f'inputs.rankings has no ranking of split {split!r}'
    f'{f" and labeler group {group!r}" if group else ""} whose prompt fits '
    f'prompt_len={config.prompt_len}',
  )
  return elements, len(rankings) - len(elements)


def load_training(run: Run, tok):
  """Loads the rankings of the training labelers and their batches.

  Returns:
    (elements, number dropped, the batches).

  Raises:
    ConfigError: no ranking prefers one response to another.
  """
  elements, dropped = load_rankings(run, tok, 'train', 'train')
  checks.require(
    elements.strict.any(),
    'inputs.rankings prefers no response to another: there is nothing to learn',
  )
  batches = training_batches(
    run.config, elements, tok, rows_read=run.rows(run.config.batch_size)
  )
  return elements, dropped, batches


def load_held_out(run: Run, tok) -> dict[str, RankedTokens]:
  """Returns the validation rankings by labeler group, 'in_group' and 'heldout'.

  Public data often has no held-out labelers: missing groups are reported and
  skipped.
  """
  folders = inputs.rankings(run)
  if not any(folder.has('rankings', 'validation') for folder in folders):
    inputs.tell(
      run, 'accuracy is not measured: inputs.rankings has no validation split'
    )
    return {}
  rankings = inputs.ranked(run, 'validation', tok)
  groups = labeler_groups(run, tok, rankings)
  held = {}
  for name, group in (('in_group', 'train'), ('heldout', 'heldout')):
    own = rankings.where(groups == group)
    elements = _usable(run.config, own, 'validation', group)[0] if own else []
    if len(elements) and elements.strict.any():
      held[name] = elements
    elif group == 'heldout' and group not in groups:
      inputs.tell(
        run,
        'no labelers are held out: accuracy is that on the training labelers',
      )
    else:
      inputs.tell(
        run,
        f'accuracy is not measured on the labelers {group!r}: '
        'the validation split has '
        f'{"only ties" if elements else "nothing"} of theirs',
      )
  return held


def held_out_batches(
  run: Run, tok, held: Mapping[str, RankedTokens], most: int = 0
) -> dict[str, Sequence[RankingBatch]]:
  """Returns the batches of held-out rankings, see `ordered_batches`.

  Args:
    run: the open run.
    tok: the tokenizer.
    held: from `load_held_out`.
    most: rankings of a group, drawn by config.eval_seed; 0 = all.
  """
  found = {}
  for name, elements in held.items():
    count = len(elements)
    if most and count > most:
      draw = np.random.default_rng(run.config.eval_seed)
      chosen = np.sort(draw.permutation(count)[:most])
      if elements.where(chosen).strict.any():
        elements = elements.where(chosen)
    found[name] = ordered_batches(run, elements, tok)
  return found


def _lengths(elements, tok) -> np.ndarray:
  if isinstance(elements, RankedTokens):
    return elements.lengths
  return np.asarray(
    [tasks.ranking_length(e.prompt, e.responses, tok.eos_id) for e in elements]
  )


def _batches(
  config, elements, tok, *, seq_len: int, max_k: int, **kwargs
) -> pipeline.Batches:
  return pipeline.ranking_batches(
    elements,
    config.batch_size,
    config.train_seed,
    max_k=max_k,
    seq_len=seq_len,
    eos_id=tok.eos_id,
    pad_id=tok.pad_id,
    **kwargs,
  )


def training_batches(config, elements, tok, **kwargs) -> pipeline.Batches:
  """Groups rankings of similar length into batches.

  All batches have the columns of the longest ranking. A step computes those
  that its rankings need, see `ranking_parts`.

  Args:
    config: config of the stage.
    elements: `pipeline.RankingTokens`.
    tok: the tokenizer.
    **kwargs: see `pipeline.Batches`.
  """
  lengths = _lengths(elements, tok)
  return _batches(
    config,
    elements,
    tok,
    seq_len=ranking_parts.columns(lengths.max()),
    lengths=lengths,
    window=WINDOW,
    max_k=2 if config.shuffled_pairs else config.max_responses,
    **kwargs,
  )


def widths(
  training: RankedTokens, held: Mapping[str, RankedTokens]
) -> tuple[int, ...]:
  """Returns the widths of `ranking_parts` for training and measurement."""
  lengths = [found.lengths for found in (training, *held.values())]
  return ranking_parts.widths(np.concatenate(lengths))


def ordered_batches(run: Run, elements, tok) -> Sequence[RankingBatch]:
  """Returns all rankings once, the longest first.

  The parts of a batch are then of similar length, see `ranking_parts.mapped`. A
  batch is put on the devices when it is used.
  """
  lengths = _lengths(elements, tok)
  batches = _batches(
    run.config,
    elements.where(np.argsort(-lengths, kind='stable')),
    tok,
    seq_len=ranking_parts.columns(lengths.max()),
    max_k=run.config.max_responses,
    shuffle=False,
    rows_read=run.rows(run.config.batch_size),
  )
  return Mapped(run.put, [*batches.once()])
