// Opens the row of a link, and filters the samples. Pages read well without.
const opened = () => {
  const row = location.hash && document.getElementById(location.hash.slice(1));
  if (row && row.tagName === 'DETAILS') row.open = true;
};
addEventListener('hashchange', opened);
opened();
const tools = document.getElementById('tools');
if (tools) {
  const fields = [...tools.querySelectorAll('input, select')];
  const value = (name) =>
    (fields.find((f) => f.ariaLabel === name) || {}).value || '';
  const groups = [...document.querySelectorAll('#cards > details')];
  const filter = () => {
    const text = value('search').trim().toLowerCase();
    const useCase = value('use case'), outcome = value('outcome');
    let found = 0;
    for (const group of groups) {
      let count = 0;
      for (const card of group.querySelectorAll('.sample')) {
        card.hidden =
          (useCase && useCase !== group.dataset.case) ||
          (outcome && outcome !== card.dataset.outcome) ||
          (text && !card.textContent.toLowerCase().includes(text));
        count += !card.hidden;
      }
      group.hidden = !count;
      group.open = count > 0 && Boolean(text || useCase);
      found += count;
    }
    tools.querySelector('[role=status]').textContent =
      `${found.toLocaleString('en')} prompts`;
  };
  fields.forEach((field) => field.addEventListener('input', filter));
  tools.hidden = false;
}
