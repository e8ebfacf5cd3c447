"""Answers prompts with a checkpoint.

  python -m instructrl.sample CHECKPOINT --prompt "Where was Mara born?"
  python -m instructrl.sample CHECKPOINT < prompts.txt

CHECKPOINT is a run folder (its newest checkpoint, the EMA if there is one), its
`checkpoints`, one step of them, or DIR/select_sft, the step of SFT that a study
selected. A reward model scores: give it `--prompt` and `--response`. Without
--prompt, every line of standard input is a prompt. From Python, use
`instructrl.load(CHECKPOINT)`.
"""

import argparse
import json
import math
import sys

from instructrl.runtime import exits
from instructrl.runtime import files
from instructrl.runtime import typed
from instructrl.runtime.command import setup_jax
from instructrl.runtime.command import setup_output
from instructrl.runtime.command import status_of


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.sample', description=__doc__.split('\n')[0]
  )
  parser.add_argument('checkpoint', help='a run folder or a step of it')
  parser.add_argument(
    '--prompt',
    type=typed.text,
    help='the prompt, where \\n is a newline; default: the lines of standard '
    'input',
  )
  parser.add_argument(
    '--response',
    type=typed.text,
    help='the response that a reward model scores',
  )
  parser.add_argument(
    '--temperature', type=float, default=1.0, help='0 is greedy (default 1)'
  )
  parser.add_argument(
    '--top_p',
    type=float,
    default=1.0,
    help='nucleus sampling (default 1: the whole distribution)',
  )
  parser.add_argument(
    '--n', type=int, default=1, help='answers per prompt (default 1)'
  )
  parser.add_argument(
    '--max_tokens',
    type=int,
    default=64,
    help='largest number of tokens in an answer (default 64)',
  )
  parser.add_argument(
    '--json', action='store_true', help='write a JSON object per prompt'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='seed of the sampling (default 0)'
  )
  args = parser.parse_args(argv)
  if args.n < 1 or args.max_tokens < 1:
    parser.error('--n and --max_tokens must be 1 or more')
  if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
    parser.error('--temperature must be 0 or more, --top_p in (0, 1]')
  return args


def answer(args, prompts, write):
  """Answers (or scores) prompts, in order, as soon as each is read."""
  import instructrl
  from instructrl.data import tasks
  from instructrl.stages import checks

  run = instructrl.load(args.checkpoint)
  checks.require(
    run.is_reward_model == (args.response is not None),
    f'{args.checkpoint} is a reward model: give --prompt and --response'
    if run.is_reward_model
    else f'{args.checkpoint} is a policy: --response is for reward models',
  )
  most = run.config.model.max_len
  for place, prompt in enumerate(prompts):
    if run.is_reward_model:
      score = float(
        run.score([prompt], [args.response], max_tokens=args.max_tokens)[0]
      )
      found = {'prompt': prompt, 'response': args.response, 'score': score}
      write(json.dumps(found) if args.json else f'{score:.4f}')
      continue
    length = len(tasks.chat_prompt(run.tok, prompt))
    if length + args.max_tokens > most:
      print(
        f'warning: the prompt has {length} tokens and --max_tokens='
        f'{args.max_tokens}; in training both have at most {most} together',
        file=sys.stderr,
      )
    answers = run.generate(
      [prompt],
      n=args.n,
      temperature=args.temperature,
      top_p=args.top_p,
      max_tokens=args.max_tokens,
      seed=args.seed,
      first=place,
    )[0]
    if args.json:
      write(json.dumps({'prompt': prompt, 'answers': answers}))
    else:
      write(answers[0] if args.n == 1 else _numbered(prompt, answers))


def _numbered(prompt, answers) -> str:
  """Formats several answers; each may have several lines."""
  lines = [prompt]
  for number, text in enumerate(answers, 1):
    lines.append(f'  {number}. ' + text.replace('\n', '\n     '))
  return '\n'.join(lines)


def _lines():
  """Yields the lines of standard input that are not empty."""
  if sys.stdin.isatty():
    print('One prompt a line; Ctrl-D ends.', file=sys.stderr)
  for number, line in enumerate(files.lines(sys.stdin.buffer, '<stdin>'), 1):
    try:
      text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
    except UnicodeDecodeError as error:
      raise ValueError(
        f'<stdin>:{number}: is not UTF-8 text (byte {error.start} of the line)'
      ) from error
    if text.strip():
      yield text.rstrip('\r\n')


def main(argv=None) -> int:
  setup_output()
  args = parse(argv)
  prompts = [args.prompt] if args.prompt is not None else _lines()

  def work():
    setup_jax()
    answer(args, prompts, lambda text: print(text, flush=True))

  return status_of(work)


if __name__ == '__main__':
  exits.leave(main())
