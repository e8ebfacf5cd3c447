"""Answers prompts with checkpoints.

  python -m instructrl.sample CHECKPOINT --prompt "Where was Mara born?"
  python -m instructrl.sample DIR/sft DIR/ppo_ptx --prompt "List three animals."
  python -m instructrl.sample CHECKPOINT --chat
  python -m instructrl.sample CHECKPOINT < prompts.txt

CHECKPOINT is a run folder (its newest checkpoint, the EMA if there is one), its
`checkpoints`, one step of them, or DIR/select_sft, the step of SFT that a study
selected. A reward model scores: give it `--prompt` and `--response`. Without
--prompt, every line of standard input is a prompt; a line that ends with a
backslash goes on. From Python, use `instructrl.load(CHECKPOINT)`.
"""

import argparse
import json
import math
import secrets
import sys

from instructrl.runtime import exits
from instructrl.runtime import files
from instructrl.runtime import typed
from instructrl.runtime.command import setup_jax
from instructrl.runtime.command import setup_output
from instructrl.runtime.command import status_of
from instructrl.runtime.errors import ConfigError


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.sample',
    usage='%(prog)s CHECKPOINT ... [options]',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('checkpoints', nargs='+', help='run folders, or steps of them')
  add(
    '--prompt',
    type=typed.text,
    help='\\n is a newline; default: the lines of standard input',
  )
  add('--response', type=typed.text, help='what a reward model scores')
  add(
    '--chat',
    action='store_true',
    help='a dialogue; an empty line begins a new one',
  )
  add('--examples', action='store_true', help='print prompts to try, and end')
  add('--temperature', type=float, default=1.0, help='0 is greedy (default 1)')
  add(
    '--top_p', type=float, default=1.0, help='nucleus sampling (default 1: off)'
  )
  add('--n', type=int, default=1, help='answers per prompt (default 1)')
  add('--max_tokens', type=int, default=64, help='longest answer (default 64)')
  add('--json', action='store_true', help='write a JSON object per prompt')
  add('--seed', type=int, help='default: a new one each time')
  args = parser.parse_args(argv)
  if args.n < 1 or args.max_tokens < 1:
    parser.error('--n and --max_tokens must be 1 or more')
  if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
    parser.error('--temperature must be 0 or more, --top_p in (0, 1]')
  if args.chat and (args.prompt or args.response or args.json or args.n > 1):
    parser.error('--chat reads standard input: no --prompt, --response, ...')
  return args


def answer(args, opened, prompts, write):
  """Answers (or scores) prompts, in order, as soon as each is read."""
  from instructrl.stages import checks

  paths = ' '.join(args.checkpoints)
  checks.require(
    opened.is_reward_model == (args.response is not None),
    f'{paths} is a reward model: give --prompt and --response'
    if opened.is_reward_model
    else f'{paths} is a policy: --response is for reward models',
  )
  for place, prompt in enumerate(prompts):
    if opened.is_reward_model:
      scores = opened.scores(prompt, args.response, args.max_tokens)
      found = {'prompt': prompt, 'response': args.response}
      found |= {'score': scores if len(scores) > 1 else [*scores.values()][0]}
      lines = {name: [f'{score:.4f}'] for name, score in scores.items()}
    else:
      lines = opened.answers(
        dict.fromkeys(opened.runs, prompt), n=args.n, **sampling(args, place)
      )
      found = {'prompt': prompt}
      found |= {'answers': lines if len(lines) > 1 else [*lines.values()][0]}
    write(json.dumps(found) if args.json else shown(prompt, lines))


def sampling(args, place: int) -> dict:
  return dict(
    temperature=args.temperature,
    top_p=args.top_p,
    max_tokens=args.max_tokens,
    seed=args.seed,
    first=place,
  )


def shown(prompt: str, answers) -> str:
  """Formats {name: answers}; each answer may have several lines."""
  if sum(map(len, answers.values())) == 1:
    ((text,),) = answers.values()
    return text
  several = len(answers) > 1
  width = max(map(len, answers))
  lines = [prompt]
  for name, texts in answers.items():
    for number, text in enumerate(texts, 1):
      head = f'  {name if number == 1 else "":{width}}' if several else ''
      head += f'  {number}. ' if len(texts) > 1 else '  '
      lines.append(head + text.replace('\n', '\n' + ' ' * len(head)))
  return '\n'.join(lines)


def chat(args, opened, lines, write):
  """Answers turn after turn; an empty line begins a new dialogue."""
  from instructrl.stages import checks
  from instructrl.stages.side_by_side import Dialogue

  checks.require(not opened.is_reward_model, '--chat is for policies')
  dialogue = Dialogue(opened)
  for place, line in enumerate(lines):
    if not line.strip():
      dialogue = Dialogue(opened)
      write('--- a new dialogue')
      continue
    turns = dialogue.say(line, **sampling(args, place))
    for name, text in turns.items():
      write(f'{name}: {text}')


def _lines(empty: bool = False):
  """Yields prompts of standard input: lines, joined at a last backslash.

  Args:
    empty: whether empty lines are yielded too.
  """
  begun: list[str] = []
  for number, line in enumerate(files.lines(sys.stdin.buffer, '<stdin>'), 1):
    try:
      text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
    except UnicodeDecodeError as error:
      raise ValueError(
        f'<stdin>:{number}: is not UTF-8 text (byte {error.start} of the line)'
      ) from error
    text = text.rstrip('\r\n')
    if text.endswith('\\'):
      begun.append(text[:-1])
    elif text.strip() or begun or empty:
      yield '\n'.join([*begun, text])
      begun = []
  if begun:
    yield '\n'.join(begun)


def _welcome(args, opened):
  """Says on a terminal how to ask, and what the world of the model knows."""
  if args.prompt is not None or not sys.stdin.isatty():
    return
  try:
    known = next(iter(opened.runs.values())).prompts_to_try()
  except ConfigError as error:  # data of another version
    known = [f'none ({error})']
  for text in ['prompts to try:', *known] if known else []:
    print(text.replace('\n', '\n  '), file=sys.stderr)
  how = 'an empty line begins a new dialogue' if args.chat else 'one a line'
  print(f'{how}; a backslash at the end goes on; Ctrl-D ends', file=sys.stderr)


def main(argv=None) -> int:
  setup_output()
  args = parse(argv)

  def write(text):
    print(text, flush=True)

  def work():
    setup_jax()
    from instructrl.stages.side_by_side import SideBySide

    opened = SideBySide(args.checkpoints)
    if args.examples:
      for text in next(iter(opened.runs.values())).prompts_to_try():
        write(text.replace('\n', '\\n'))
      return
    if args.seed is None:
      args.seed = secrets.randbits(31)
      if args.temperature and not opened.is_reward_model:
        print(f'--seed={args.seed}', file=sys.stderr)
    _welcome(args, opened)
    if args.chat:
      chat(args, opened, _lines(empty=True), write)
      return
    prompts = [args.prompt] if args.prompt is not None else _lines()
    answer(args, opened, prompts, write)

  return status_of(work)


if __name__ == '__main__':
  exits.leave(main())
