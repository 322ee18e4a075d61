// The browser's title says which tab is open, however it was opened.
() => {
  const whole = document.title, bar = document.querySelector('#tabs');
  const say = () => {
    const tab = bar.querySelector('[role=tab][aria-selected=true]')?.textContent.trim();
    const title = !tab || tab === 'Start' ? whole : `${tab} - ${whole}`;
    if (document.title !== title) document.title = title;
  };
  new MutationObserver(say).observe(bar, { subtree: true, attributeFilter: ['aria-selected'] });
  say();
}
