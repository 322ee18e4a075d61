// What test_accessibility.py asks of a page: texts that are cut off, and where the Tab key leads.
(() => {
  const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const spelled = (element) => element?.outerHTML.slice(0, 120) ?? 'nothing';
  const forNobody = (element) => element.closest('.cb-unseen, .sr-only, [aria-hidden=true]'); // Gradio measures its tabs there
  const reached = new Set();

  // Texts that end outside of what clips them, where nobody can scroll to them.
  const cut = () => {
    const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = new Range();
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (!text.data.trim() || !shown(text.parentElement) || forNobody(text.parentElement)) continue;
      range.selectNodeContents(text);
      const box = range.getBoundingClientRect();
      for (let around = text.parentElement; around; around = around.parentElement) {
        const overflow = getComputedStyle(around).overflowX, frame = around.getBoundingClientRect();
        if (overflow === 'auto' || overflow === 'scroll') break;
        if (overflow === 'visible' && around !== document.body) continue;
        if (box.left >= frame.left - 1 && box.right <= frame.right + 1) continue;
        found.push(`${text.data.trim().slice(0, 60)} in ${spelled(around)}`);
        break;
      }
    }
    return found;
  };

  const toTheTop = () => {
    reached.clear();
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute('tabindex');
    scrollTo(0, 0);
  };

  // What is wrong with what has the focus; null at the end of the page.
  const stop = () => {
    const focused = document.activeElement, box = focused.getBoundingClientRect(), style = getComputedStyle(focused);
    if (focused === document.body || reached.has(focused)) return null;
    reached.add(focused);
    const within = (value, end) => Math.min(Math.max(value, 0), end - 1);
    const x = within(box.x + box.width / 2, innerWidth);
    const above = [box.y + 3, box.y + box.height / 2, box.bottom - 3].map((y) => document.elementFromPoint(x, within(y, innerHeight)));
    const faults = [];
    if (!shown(focused) || box.width < 5 || box.height < 5) faults.push('cannot be seen');
    if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) faults.push('has no outline');
    if (!above.some((top) => focused.contains(top) || top?.contains(focused))) faults.push(`is behind ${spelled(above[0])}`);
    return faults.map((fault) => `${spelled(focused)} ${fault}`);
  };

  // Controls that Tab has not reached; between patches of a picture, arrow keys lead.
  const missed = () => [...document.querySelectorAll('a[href], button, input, select, textarea, summary')]
    .filter((control) => shown(control) && !forNobody(control) && !control.disabled && !reached.has(control))
    .filter((control) => !control.matches('.cb-cell'))
    .map(spelled);

  window.accessibility = { cut, toTheTop, stop, missed };
})();
