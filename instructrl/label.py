"""Asks people: a page on which they write, rate and rank answers.

  python -m instructrl.label new DIR --items FILE       your prompts (answers)
  python -m instructrl.label sample --policies sft=DIR/sft,ppo=DIR/ppo \\
      --prompts SPEC --k 4..9 --out DIR                 answers of policies
  python -m instructrl.label serve DIR                  serves the page
  python -m instructrl.label invite DIR NAME            a labeler's own link
  python -m instructrl.label export DIR --out OUT       records for training
  python -m instructrl.label results DIR --out STUDY/people.json
                                              win rates, for the study's report

docs/feedback.md describes the page, and how a team uses it. The extra `label`
has the packages: pip install "instructrl[label]".
"""

import argparse
import pathlib
import sys

from instructrl.feedback import PORT
from instructrl.runtime import command
from instructrl.runtime import exits
from instructrl.runtime import typed


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.label',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  new = commands.add_parser('new')
  new.add_argument('dir', type=typed.path)
  new.add_argument(
    '--items',
    type=typed.path,
    required=True,
    help='JSON lines with a prompt, and responses unless labelers only write',
  )
  sample = commands.add_parser('sample')
  sample.add_argument('--out', type=typed.path, required=True, dest='dir')
  sample.add_argument(
    '--policies', required=True, help='NAME=RUN,...: run folders of policies'
  )
  sample.add_argument(
    '--prompts',
    required=True,
    help='a data folder such as DIR/lab, or a source such as jsonl:FILE',
  )
  sample.add_argument('--split', default='train', help='default train')
  sample.add_argument(
    '--limit', type=int, default=0, help='first prompts of the split; 0 is all'
  )
  sample.add_argument(
    '--k', default='4..9', help='answers per prompt, N or LOW..HIGH (4..9)'
  )
  sample.add_argument(
    '--temperatures', default='1.0', help='comma-separated (default 1.0)'
  )
  sample.add_argument(
    '--demonstrations',
    action='store_true',
    help="the labeler's demonstration is one of the answers",
  )
  sample.add_argument('--max_tokens', type=int, default=64)
  sample.add_argument('--seed', type=int, default=0)
  for made in (new, sample):
    made.add_argument(
      '--tasks', default='rank', help='demonstrate, rate, rank (default rank)'
    )
    made.add_argument('--title', default='Compare answers')
    made.add_argument(
      '--share',
      type=float,
      default=0.0,
      help='fraction of prompts for several labelers, to measure agreement',
    )
    made.add_argument('--quota', type=int, default=0, help='prompts a labeler')
  serve = commands.add_parser('serve')
  serve.add_argument('--host', default='127.0.0.1')
  serve.add_argument('--port', type=int, default=PORT)
  serve.add_argument(
    '--public',
    metavar='HOSTNAME',
    help='name under which a proxy with TLS serves the page; prints how',
  )
  invite = commands.add_parser('invite')
  export = commands.add_parser('export')
  export.add_argument('--out', type=typed.path, required=True)
  results = commands.add_parser('results')
  results.add_argument('--out', type=typed.path, required=True)
  results.add_argument(
    '--reference', default='sft', help='policy that others are compared with'
  )
  for opens in (serve, invite, export, results):
    opens.add_argument('dir', type=typed.path)
    opens.add_argument(
      '--database', default='', help='URL; default SQLite in the folder'
    )
  invite.add_argument('name')
  invite.add_argument('--group', default='train', help='train or heldout')
  invite.add_argument('--quota', type=int, default=-1)
  invite.add_argument('--url', default=f'http://127.0.0.1:{PORT}')
  return parser.parse_args(argv)


def _settings(args):
  from instructrl.feedback import project

  return project.ProjectSettings(
    title=args.title,
    tasks=tuple(args.tasks.split(',')),
    share=args.share,
    quota=args.quota,
  )


def _new(args) -> None:
  from instructrl.feedback import project

  settings = _settings(args)
  items = project.read_items(args.items, settings.tasks)
  project.create(args.dir, items, settings)
  _explain(args.dir, len(items))


def _sample(args) -> None:
  from instructrl.feedback import candidates
  from instructrl.feedback import project
  from instructrl.stages import loaded

  settings = _settings(args)
  project.require_new(args.dir)  # before the policies are sampled

  def load(folder):
    print(f'samples answers of {folder}', flush=True)
    return loaded.load(folder)

  command.setup_jax()
  items = candidates.make(
    candidates.Request.parse(
      policies=args.policies,
      prompts=args.prompts,
      split=args.split,
      limit=args.limit,
      k=args.k,
      temperatures=args.temperatures,
      demonstrations=args.demonstrations,
      max_tokens=args.max_tokens,
      seed=args.seed,
    ),
    load,
  )
  project.create(args.dir, items, settings)
  _explain(args.dir, sum(not item.is_same for item in items))


def _explain(folder: pathlib.Path, count: int) -> None:
  print(f'{folder}: {count} prompts; project.json has the settings and')
  print('instructions.md what labelers read. Next:')
  print(f'  python -m instructrl.label serve {folder}')


def _open(args):
  from instructrl.feedback import desk
  from instructrl.feedback import events
  from instructrl.feedback import project

  opened = project.Project(args.dir)
  return desk.Desk(opened, events.EventLog(args.dir, args.database))


def _serve(args) -> None:
  from instructrl.feedback import project
  from instructrl.feedback import serving
  from instructrl.runtime import run_folder

  project.read_settings(args.dir)  # a folder without a project has no lock
  with run_folder.only_process(args.dir):
    serving.serve(_open(args), args.host, args.port, args.public)


def _invite(args) -> None:
  token = _open(args).invite(args.name, args.group, args.quota)
  print(f'{args.url.rstrip("/")}/join/{token}')


def _export(args) -> None:
  from instructrl.feedback import exports

  for name, count in exports.write(_open(args), args.out).items():
    print(f'{args.out / name}: {count} lines')


def _results(args) -> None:
  from instructrl.feedback import measures
  from instructrl.runtime import files

  files.write_json(args.out, measures.measure(_open(args), args.reference))
  print(f'{args.out}: python -m instructrl.report shows it beside the judge')


_COMMANDS = {
  'new': _new,
  'sample': _sample,
  'serve': _serve,
  'invite': _invite,
  'export': _export,
  'results': _results,
}


def main(argv=None) -> int:
  command.setup_output()
  args = parse(argv)

  def work():
    try:
      _COMMANDS[args.command](args)
    except ModuleNotFoundError as error:
      if error.name and error.name.startswith('instructrl'):
        raise
      sys.exit(
        f'error: the package {error.name} is missing: '
        'pip install "instructrl[label]"'
      )

  return command.status_of(work)


if __name__ == '__main__':
  exits.leave(main())
