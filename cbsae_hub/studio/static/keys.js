// What Gradio leaves undone for the keyboard.
() => {
  // Escape closes messages. Their heads are no buttons: one stands in them.
  const mend = () => {
    for (const head of document.querySelectorAll('.toast-header[role=button]')) for (const name of ['role', 'tabindex']) head.removeAttribute(name);
  };
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && event.isTrusted) for (const button of document.querySelectorAll('.toast-close')) button.click();
    // A list of choices closes before the focus goes on to what it hides.
    if (event.key === 'Tab' && event.target.matches('[role=combobox][aria-expanded=true]')) event.target.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }));
  }, true);
}
