"""The page "The paper, reproduced" as Markdown."""

from collections.abc import Mapping
import re

from instructrl.reports import tables

HEAD = ('Statement', 'Verdict', 'Here', 'Shown if', 'Paper', 'From')


def page(contents: Mapping) -> str:
  """Returns the page for docs/, with links to figures/.

  Args:
    contents: of the page, see `reproduction.write`.
  """
  command = f'```bash\n{contents["command"]}\n```'
  text = [f'# {contents["title"]}', contents['headline'] + '.']
  text += [*contents['about'], command]
  text += [
    f'**Alarm: {alarm.title}.** {"; ".join(alarm.found)}. {alarm.limit}'
    for alarm in contents['alarms']
  ]
  titles = [
    f'{number}. {section["title"]}'
    for number, section in enumerate(contents['sections'], 1)
  ]
  text.append(
    tables.markdown(
      ('Claim', 'Statements'),
      [
        [f'[{title}](#{_anchor(title)})', section['summary']]
        for title, section in zip(titles, contents['sections'])
      ],
    )
  )
  for title, section in zip(titles, contents['sections']):
    text.append(f'## {title}')
    text += [f'*Paper.* {section["paper"]}'] if section['paper'] else []
    text += [section['note']] if section['note'] else []
    if section['checks']:
      rows = [_cells(check) for check in section['checks']]
      text += [section['summary'], tables.markdown(HEAD, rows)]
    text += [
      tables.markdown(table['head'], table['rows'])
      for table in section['tables']
    ]
    for name, title, drawing in section['figures']:
      text.append(f'![{title}](figures/{name}.svg) {drawing.note}'.strip())
    commands = '\n'.join(section['commands'].values())
    text += [f'```bash\n{commands}\n```'] if commands else []
  return '\n\n'.join(text) + '\n'


def _anchor(heading: str) -> str:
  """Returns the anchor of a heading, as sites make it from Markdown."""
  return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def _cells(check: Mapping) -> list[str]:
  verdict = f'{check["symbol"]} {check["verdict"]}'
  return [
    check['statement'],
    f'{verdict}: {check["note"]}' if check['note'] else verdict,
    '; '.join(
      [check['measured'], check['quantity'], ', '.join(check['by_policy'])]
    ).removesuffix('; '),
    check['region'],
    check['paper'],
    f'{check["part"]}, {check["runs"]}',
  ]
