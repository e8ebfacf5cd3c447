"""Answers prompts with a checkpoint.

  python -m instructrl.sample CHECKPOINT --prompt "Where was Mara born?"
  python -m instructrl.sample CHECKPOINT < prompts.txt

CHECKPOINT is a run folder (the newest checkpoint, the EMA where there is one),
its `checkpoints`, or one step of them; which of SFT's a study selected stands
in DIR/select_sft/DONE. A reward model scores instead: give it
`--response` beside `--prompt`. Without --prompt every line of standard input
is a prompt.
"""

import argparse
import json
import sys

from instructrl import rng
from instructrl.data import tasks
from instructrl.evaluators.lm import Engine
from instructrl.evaluators.lm import LanguageModel
from instructrl.runtime.command import EXPECTED_ERRORS
from instructrl.runtime.command import setup_jax
from instructrl.stages import checks
from instructrl.stages import opening
from instructrl.stages import policies
from instructrl.stages import reward


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='instructrl.sample', description=__doc__.split('\n')[0]
  )
  parser.add_argument('checkpoint', help='a run folder or a step of it')
  parser.add_argument('--prompt', help='what to answer; else standard input')
  parser.add_argument('--response', help='what a reward model scores')
  parser.add_argument(
    '--temperature', type=float, default=1.0, help='0 is greedy (default 1)'
  )
  parser.add_argument(
    '--top_p',
    type=float,
    default=1.0,
    help='nucleus (default 1: the whole distribution)',
  )
  parser.add_argument(
    '--n', type=int, default=1, help='answers per prompt (default 1)'
  )
  parser.add_argument(
    '--max_tokens',
    type=int,
    default=64,
    help='longest answer, in tokens (default 64)',
  )
  parser.add_argument(
    '--json', action='store_true', help='a JSON object per prompt'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the sampling (default 0)'
  )
  args = parser.parse_args(argv)
  if args.n < 1 or args.max_tokens < 1:
    parser.error('--n and --max_tokens must be 1 or more')
  if args.temperature < 0 or not 0 < args.top_p <= 1:
    parser.error('--temperature must be 0 or more, --top_p in (0, 1]')
  return args


def answer(args, prompts, write):
  """Answers (or scores) prompts, in order, as soon as each is read."""
  run = opening.open_run(args.checkpoint)
  tok = run.tok
  if run.is_reward_model:
    checks.require(
      args.response is not None,
      'a reward model scores: give --prompt and --response',
    )
    scorer = reward.Scorer(run.model, tok, batch_size=1)
    for prompt in prompts:
      score = scorer(
        run.params,
        [tasks.chat_prompt(tok, prompt)],
        [tasks.response_tokens(tok, args.response, args.max_tokens)],
      )
      write(
        json.dumps(
          {
            'prompt': prompt,
            'response': args.response,
            'score': float(score[0]),
          }
        )
        if args.json
        else f'{score[0]:.4f}'
      )
    return
  checks.require(
    args.response is None,
    f'{args.checkpoint} is a policy: --response is for reward models',
  )
  room = run.config.model.max_len - args.max_tokens  # as in training
  policy = LanguageModel(
    'policy',
    Engine(run.model, tok, batch_size=args.n),
    run.params,
    template=policies.template_of('', run.config.stage),
    response_len=args.max_tokens,
  )
  for place, prompt in enumerate(prompts):
    checks.require(bool(prompt.strip()), 'the prompt is empty')
    length = len(tasks.chat_prompt(tok, prompt))
    if length > room:
      print(
        f'warning: the prompt has {length} tokens; examples with more than '
        f'{room} before an answer of {args.max_tokens} are longer than any '
        'in training',
        file=sys.stderr,
      )
    rows = range(place * args.n, (place + 1) * args.n)
    answers = [
      tok.decode(tokens).strip()
      for tokens in policy.sample_tokens(
        [prompt] * args.n,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        purpose=rng.Purpose.SAMPLE,
        rows=rows,
      )
    ]
    if args.json:
      write(json.dumps({'prompt': prompt, 'answers': answers}))
    elif args.n == 1:
      write(answers[0])
    else:  # an answer may have several lines
      write(
        '\n'.join(
          [
            prompt,
            *(
              f'  {number}. ' + text.replace('\n', '\n     ')
              for number, text in enumerate(answers, 1)
            ),
          ]
        )
      )


def _lines():
  if sys.stdin.isatty():
    print('One prompt a line; Ctrl-D ends.', file=sys.stderr)
  for line in sys.stdin:
    if line.strip():
      yield line.rstrip('\n')


def main(argv=None) -> int:
  args = parse(argv)
  setup_jax()
  prompts = [args.prompt] if args.prompt is not None else _lines()
  try:
    answer(args, prompts, lambda text: print(text, flush=True))
  except EXPECTED_ERRORS as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(main())
