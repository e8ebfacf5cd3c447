"""Citations of the paper that were wrong once.

Sections, figures and tables are those of Ouyang et al. 2022
(arXiv 2203.02155v1).
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = 'instructrl/reports/templates/study.html.j2'


@pytest.mark.parametrize(
  'name, about, citation',
  [
    (PAGE, 'Winogender', r'Section 4\.2, Figure 32'),
    (PAGE, 'order of the Likert scores', 'Figure 31'),
    (PAGE, '85 ± 3%', r'Section 4\.1'),
    (PAGE, '41%', 'Section 1'),
    (PAGE, 'About twice as often', 'section 1’s'),
    (PAGE, 'About 25% fewer toxic outputs', 'section 1’s'),
    (PAGE, 'the checkpoint is chosen by that score', r'3\.5, appendix C\.1'),
    ('docs/paper_to_code.md', 'labelers rank K', r'3\.5, Fig\. 12'),
    ('docs/paper_to_code.md', 'shuffled pairs, which', r'3\.5, footnote 5'),
    ('docs/paper_to_code.md', 'GPT (prompted)', r'3\.5, footnote 6'),
    ('experiments/rankings.py', 'max_responses = 4, 9', r'section 3\.5'),
    ('experiments/reward.py', 'shuffled_pairs', r'ablation of 3\.5'),
    ('experiments/common.py', '1024, 1024', r'appendix C\b'),
    ('instructrl/stages/ppo_settings.py', 'tokens of a prompt', 'appendix C'),
    ('instructrl/stages/rankings.py', 'drawn from 4..9', r'section 3\.5'),
    ('instructrl/lab/people/labelers.py', 'strict preference', r'section 3\.4'),
    ('instructrl/data/ranked.py', 'overfits within', r'3\.5, footnote 5'),
    ('instructrl/data/curate/fitting.py', 'never cut', r'appendix C\b'),
  ],
)
def test_the_citation_is_near_what_it_is_about(name, about, citation):
  text = (ROOT / name).read_text('utf-8')
  places = [m.start() for m in re.finditer(re.escape(about), text)]
  assert places, f'{name} no longer says {about!r}'
  near = [text[max(0, i - 300) : i + 300] for i in places]
  assert any(re.search(citation, part) for part in near), near
