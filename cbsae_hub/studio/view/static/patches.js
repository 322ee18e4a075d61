// Clicks, arrow keys and Enter on the patches; one listener on the root outlives every new picture.
element.addEventListener('click', (event) => {
  const cell = event.target.closest('.cb-cell');
  if (cell) trigger('click', { patch: Number(cell.dataset.patch) });
});
element.addEventListener('keydown', (event) => {
  const cell = event.target.closest('.cb-cell');
  if (!cell) return;
  const columns = Number(cell.parentElement.dataset.columns);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step) return;
  const cells = cell.parentElement.querySelectorAll('.cb-cell');
  const next = cells[Number(cell.dataset.patch) + step];
  event.preventDefault();
  if (next) { cell.tabIndex = -1; next.tabIndex = 0; next.focus(); }
});
