"""Colours, spacing and the keyboard behaviour of the page. No fonts or scripts come from elsewhere."""

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#results .wrap, #neurons .wrap { flex-direction: column; align-items: stretch; gap: .25rem; }
#results label, #neurons label { width: 100%; }
.cb-link { display: inline-block; margin-top: .8rem; }
.cb-header h1 { font-size: 1.9rem; margin: .4rem 0 .2rem; }
.cb-header p { margin: 0 0 .6rem; opacity: .85; }
.cb-facts { display: flex; flex-wrap: wrap; gap: .5rem; margin: .5rem 0; }
.cb-facts > div { background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  border-radius: 10px; padding: .35rem .7rem; min-width: 0; }
.cb-facts dt { font-size: .72rem; opacity: .75; }
.cb-facts dd { margin: 0; font-weight: 600; font-size: .92rem; overflow-wrap: anywhere; }
.cb-card h3 { font-size: 1.25rem; margin: .2rem 0; overflow-wrap: anywhere; }
.cb-card h4 { font-size: .85rem; font-weight: 600; margin: .9rem 0 .3rem; opacity: .8; }
.cb-note { border-left: 3px solid #b45309; padding-left: .6rem; }
.cb-also { opacity: .8; font-size: .9rem; margin: .1rem 0 .4rem; }
.cb-strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: .45rem; }
.cb-figure { margin: 0; }
.cb-frame { position: relative; aspect-ratio: 1; border-radius: 8px; overflow: hidden; background: #8884; }
.cb-frame img { width: 100%; height: 100%; object-fit: contain; display: block; image-rendering: auto; }
.cb-heat { position: absolute; inset: 0; width: 100%; height: 100%; }
.cb-plain .cb-heat { display: none; }
.cb-figure figcaption { font-size: .72rem; text-align: center; opacity: .8; }
.cb-sample { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 0; overflow: hidden;
  cursor: pointer; aspect-ratio: 1; background: none; }
.cb-sample img { width: 100%; height: 100%; display: block; margin: 0; }
.cb-sample:focus-visible { outline: 3px solid var(--color-accent); }
.cb-verdict { margin: .3rem 0; }
.cb-chip { display: inline-block; border-radius: 999px; padding: .1rem .6rem; font-weight: 600; margin-right: .3rem; }
.cb-strong { background: #0f766e; color: #fff; }
.cb-weak { background: #b45309; color: #fff; }
.cb-not { background: #475569; color: #fff; }
.cb-grid-figure { margin: 0; }
.cb-grid { display: grid; width: 100%; max-width: 440px; aspect-ratio: 1; background-size: 100% 100%;
  border-radius: 10px; overflow: hidden; }
.cb-cell { border: 0; padding: 0; margin: 0; min-width: 0; min-height: 0; cursor: pointer; border-radius: 0; }
.cb-cell:hover { outline: 2px solid #fff9; outline-offset: -2px; }
.cb-cell:focus-visible { outline: 3px solid #fff; outline-offset: -3px; box-shadow: inset 0 0 0 5px #000; }
.cb-cell[aria-pressed=true] { outline: 3px solid #fff; outline-offset: -3px; box-shadow: inset 0 0 0 5px #111; }
.cb-grid-figure figcaption { margin-top: .4rem; font-size: .9rem; }
@media (max-width: 480px) {
  .cb-header h1 { font-size: 1.45rem; }
  .gradio-container { padding: .5rem !important; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
"""

# Clicks, arrow keys and Enter on the patches; one listener on the root outlives every new picture.
PATCH_KEYS = """
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
"""
