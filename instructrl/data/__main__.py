r"""Summarizes a data set before training.

  python -m instructrl.data jsonl:rankings.jsonl.gz hh-rlhf/helpful-base
  python -m instructrl.data alpaca --tokenizer DIR --prompt_len 512

Prints what a source has: rows, and what was dropped and why; splits, K, ties,
labelers, users, lengths; and a few examples, with what is trained on marked. A
SPEC is `NAME[/SUBSET][:PATH][?option=value&...]`; PATH is a local file or
folder of the source's own files, without it the source is downloaded.
"""

import argparse
import json
import os
import sys
import textwrap

import numpy as np

from instructrl.data import examples
from instructrl.data import summary
from instructrl.data.curate import fitting
from instructrl.data.sources import registry
from instructrl.tokenizers import loading


def _sources() -> str:
  """The sources with their options, for --help."""
  lines = ['sources (and limit=N, strict=BOOL of all):']
  for name, about in registry.names():
    lines += textwrap.wrap(
      f'{name}  {about}',
      summary.WIDTH - 2,
      initial_indent='  ',
      subsequent_indent=' ' * 6,
    )
  return '\n'.join(lines)


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='instructrl.data',
    description=__doc__.split('\n')[0],
    epilog=_sources(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'spec', nargs='+', help='NAME[/SUBSET][:PATH][?option=value&...]'
  )
  parser.add_argument(
    '--limit',
    type=int,
    default=0,
    help='rows read of each source (default 0: all)',
  )
  parser.add_argument(
    '--examples',
    type=int,
    default=3,
    help='how many of each source are shown (default 3)',
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the choice of examples (default 0)'
  )
  parser.add_argument(
    '--tokenizer',
    metavar='PATH',
    help='a run folder with one; lengths are in tokens too',
  )
  parser.add_argument(
    '--prompt_template',
    default='',
    help="such as 'Human: {prompt}\\n\\nAssistant:', or chat",
  )
  parser.add_argument(
    '--response_template', default='', help="such as ' {response}'"
  )
  parser.add_argument(
    '--system', default='', help='system message of a chat template'
  )
  parser.add_argument(
    '--prompt_len',
    type=int,
    default=1024,
    help='tokens of a prompt at most (default 1024)',
  )
  parser.add_argument(
    '--response_len',
    type=int,
    default=1024,
    help='tokens of a response at most (default 1024)',
  )
  parser.add_argument(
    '--data_dir', metavar='DIR', help='where downloads are kept'
  )
  parser.add_argument(
    '--json',
    action='store_true',
    help='a JSON object per source, without examples',
  )
  args = parser.parse_args(argv)
  if min(args.limit, args.examples, args.seed) < 0:
    parser.error('--limit, --examples and --seed must be 0 or more')
  if min(args.prompt_len, args.response_len) < 1:
    parser.error('--prompt_len and --response_len must be 1 or more')
  given = [name for name in fitting.TEMPLATES if getattr(args, name)]
  if given and not args.tokenizer:
    parser.error(f'--{given[0]} needs --tokenizer')
  return args


def open_tokenizer(args):
  """The tokenizer of --tokenizer with the given layout; None without it."""
  if not args.tokenizer:
    return None
  return fitting.with_templates(loading.load(args.tokenizer), vars(args))


def show(args, write) -> None:
  """Writes the summary and examples of each source, as soon as it is read."""
  tok = open_tokenizer(args)
  colour = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
  for spec in args.spec:
    registry.parse(spec)  # a mistake in the last is told before the first
  for spec in args.spec:
    loaded = registry.load(spec, limit=args.limit, data_dir=args.data_dir)
    found = summary.describe(
      loaded, tok, prompt_len=args.prompt_len, response_len=args.response_len
    )
    if args.json:
      write(json.dumps(found))
      continue
    write(summary.render(found))
    count = min(args.examples, len(loaded.records))
    chosen = (
      np.random.default_rng(args.seed).choice(
        len(loaded.records), count, replace=False
      )
      if count
      else ()
    )
    write(
      examples.render(
        [loaded.records[i] for i in sorted(chosen)],
        tok,
        colour=colour,
        response_len=args.response_len,
      )
    )


def main(argv=None) -> int:
  args = parse(argv)
  try:
    show(args, lambda text: print(text, flush=True))
  except BrokenPipeError:  # its reader, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(main())
