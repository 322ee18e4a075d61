// What Gradio leaves undone for the keyboard.
() => {
  // Heads of messages are no buttons: one stands in them. Lists of choices are walked by arrow keys, not by Tab;
  // code is scrolled by them, once Tab has led to it.
  const mend = () => {
    for (const head of document.querySelectorAll('.toast-header[role=button]')) for (const name of ['role', 'tabindex']) head.removeAttribute(name);
    for (const list of document.querySelectorAll('.options:not([tabindex]), .option-list:not([tabindex])')) list.tabIndex = -1;
    for (const code of document.querySelectorAll('.cm-scroller[tabindex="-1"]')) code.tabIndex = 0;
  };
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') for (const button of document.querySelectorAll('.toast-close')) button.click();
    // A list of choices would open at each key, and stay open over what the focus goes on to.
    if (event.key === 'Tab' && event.target.matches('[role=combobox]')) event.stopPropagation();
  }, true);
}
