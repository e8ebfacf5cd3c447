r"""Shows the contents of data before training on them.

  python -m instructrl.data jsonl:rankings.jsonl.gz hh-rlhf/helpful-base
  python -m instructrl.data alpaca --tokenizer DIR --prompt_len 512

Prints a summary of each source (rows, dropped rows and why, splits, K, ties,
labelers, users, lengths) and a few examples, with the trained text marked. A
SPEC is `NAME[/SUBSET][:PATH][?option=value&...]`; PATH is a local file or
folder with the source's own files. Without PATH the source is downloaded.
"""

import argparse
import json
import os
import sys
import textwrap

from instructrl.data.sources import lookup
from instructrl.runtime import command
from instructrl.runtime import exits

# JAX and TFDS are imported inside functions: --help does not wait for them.
_WIDTH = 80


class _Sources(argparse.Action):
  def __call__(self, parser, *_):
    print(_sources())
    parser.exit()


def _sources() -> str:
  """Lists the sources with their options."""
  lines = ['sources (all have the options limit=N, strict=BOOL):']
  for name, about in lookup.names():
    lines += textwrap.wrap(
      f'{name}  {about}',
      _WIDTH - 2,
      initial_indent='  ',
      subsequent_indent=' ' * 6,
    )
  return '\n'.join(lines)


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.data',
    description=__doc__.split('\n')[0],
    usage='%(prog)s [options] SPEC [SPEC ...]',
    formatter_class=lambda prog: argparse.HelpFormatter(
      prog, max_help_position=30
    ),
  )
  parser.add_argument(
    '--sources',
    action=_Sources,
    nargs=0,
    help='list the sources with their options',
  )

  def add(name, about, default=None, **kwargs):
    if isinstance(default, int):
      kwargs['type'], about = int, f'{about} (default {default})'
    parser.add_argument(name, help=about, default=default, **kwargs)

  add('spec', 'NAME[/SUBSET][:PATH][?option=value&...]', nargs='+')
  add('--limit', 'rows to read of each source; 0: all', 0)
  add('--examples', 'examples to show from each source', 3)
  add('--seed', 'seed of the choice of examples', 0)
  add('--tokenizer', 'run folder; shows lengths in tokens', metavar='PATH')
  layout = dict(default='', metavar='TEXT')
  add('--prompt_template', "such as 'Q: {prompt}\\nA:', or chat", **layout)
  add('--response_template', "such as ' {response}'", **layout)
  add('--system', 'system message of a chat template', **layout)
  add('--prompt_len', 'limit of a prompt, in tokens', 1024)
  add('--response_len', 'limit of a response, in tokens', 1024)
  add('--data_dir', 'folder of downloads', metavar='DIR')
  parser.add_argument(
    '--json',
    action='store_true',
    help='print a JSON object per source, without examples',
  )
  args = parser.parse_args(argv)
  if min(args.limit, args.examples, args.seed) < 0:
    parser.error('--limit, --examples and --seed must be 0 or more')
  if min(args.prompt_len, args.response_len) < 1:
    parser.error('--prompt_len and --response_len must be 1 or more')
  from instructrl.data.curate import fitting

  given = [name for name in fitting.TEMPLATES if getattr(args, name)]
  if given and not args.tokenizer:
    parser.error(f'--{given[0]} needs --tokenizer')
  return args


def open_tokenizer(args):
  """Loads --tokenizer with the given templates; None without the flag."""
  if not args.tokenizer:
    return None
  from instructrl.data.curate import fitting
  from instructrl.tokenizers import loading

  return fitting.with_templates(loading.load(args.tokenizer), vars(args))


def show(args, write) -> None:
  """Writes the summary and examples of each source, as soon as it is read."""
  import numpy as np

  from instructrl.data import examples
  from instructrl.data import summary
  from instructrl.data import summary_text

  tok = open_tokenizer(args)
  colour = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
  for spec in args.spec:
    lookup.parse(spec)  # finds mistakes in all specs before reading any
  for spec in args.spec:
    loaded = lookup.load(spec, limit=args.limit, data_dir=args.data_dir)
    found = summary.describe(
      loaded, tok, prompt_len=args.prompt_len, response_len=args.response_len
    )
    if args.json:
      write(json.dumps(found))
      continue
    write(summary_text.render(found))
    total = len(loaded.records)
    count = min(args.examples, total)
    rng = np.random.default_rng(args.seed)
    chosen = rng.choice(total, count, replace=False) if count else ()
    shown = examples.render(
      [loaded.records[i] for i in sorted(chosen)],
      tok,
      colour=colour,
      response_len=args.response_len,
    )
    write(shown)


def main(argv=None) -> int:
  command.setup_output()
  args = parse(argv)
  write = lambda text: print(text, flush=True)
  return command.status_of(lambda: show(args, write))


if __name__ == '__main__':
  exits.leave(main())
