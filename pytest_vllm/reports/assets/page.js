"use strict";
/* What a page can do besides being read. The script reads the page and sets attributes and text:
   no address is asked, and no markup is made of data. Without it everything is there, too. */
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /* Buttons to copy. A page that was opened from a disk may lack the clipboard: then the text is
     selected, and the keyboard does the rest. */
  for (const place of all(".copied")) {
    const source = place.dataset.text === undefined ? place : null;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${place.dataset.label}`);
    button.addEventListener("click", async () => {
      const shown = source || place.parentNode.firstChild;
      try {
        await navigator.clipboard.writeText(source ? source.textContent : place.dataset.text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(shown.nodeType === Node.TEXT_NODE ? shown.parentNode : shown);
        button.textContent = "Selected";
      }
    });
    place.after(button);
  }

  /* The checks: filter and search. */
  const form = document.querySelector("form.filters");
  const suites = all("details.suite").map((box) => ({ box, open: box.open, rows: null }));
  const told = form && form.querySelector("[role=status]");
  let waiting = 0; /* until a change of the form is applied */

  function rowsOf(suite) {
    suite.rows ??= all("tbody > tr[id]", suite.box).map((row) => {
      const next = row.nextElementSibling;
      const more = next && next.classList.contains("more") ? next : null;
      const text = row.textContent.toLowerCase();
      return { row, more, text, kind: row.className, level: row.dataset.level };
    });
    return suite.rows;
  }

  function apply() {
    clearTimeout(waiting);
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = form.elements.outcome.value;
    const level = form.elements.level.value;
    const chosen = form.elements.suite.value;
    const filtered = Boolean(words.length || outcome || level || chosen);
    const bad = ["fail", "error", "not-run", "waived"];
    let shown = 0;
    let total = 0;
    suites.forEach((suite, number) => {
      let here = 0;
      const rows = rowsOf(suite);
      for (const item of rows) {
        const fits =
          (!chosen || chosen === String(number)) &&
          (!outcome || (outcome === "bad" ? bad.includes(item.kind) : outcome === item.kind)) &&
          (!level || level === item.level) &&
          words.every((word) => item.text.includes(word));
        item.row.hidden = !fits;
        if (item.more) item.more.hidden = !fits;
        here += fits;
      }
      total += rows.length;
      shown += here;
      suite.box.hidden = filtered && !here;
      suite.box.open = filtered ? here > 0 : suite.open;
      for (const piece of all(".piece", suite.box)) {
        piece.hidden = !piece.querySelector("tbody > tr:not([hidden])");
      }
    });
    document.getElementById("no-match").hidden = !filtered || shown > 0;
    told.textContent = filtered ? `${shown} of ${total} checks` : `${total} checks`;
  }

  if (form && suites.length) {
    const soon = (wait) => {
      clearTimeout(waiting);
      waiting = setTimeout(apply, wait);
    };
    form.addEventListener("input", () => soon(100));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      soon(0);
    });
    form.addEventListener("reset", () => soon(0)); /* the fields are cleared after this event */
    form.hidden = false;
    told.textContent = `${form.dataset.total} checks`;
  }

  /* An address such as report.html#check-chat.usage.adds-up opens what is there; the name of a
     check alone does as well. */
  function reveal() {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch {
      /* not ours */
    }
    const found = document.getElementById(name) || document.getElementById(`check-${name}`);
    if (!name || !found) return;
    if (found.closest("[hidden]")) {
      form.reset();
      apply();
    }
    for (let box = found.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
    const next = found.nextElementSibling;
    if (next && next.classList.contains("more")) next.querySelector("details").open = true;
    found.scrollIntoView({ block: "start" });
  }
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();

  /* On paper nothing can be opened: what failed is, in a suite that a reader has closed, too. */
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [
      ...all("details.suite:not([open])").filter((box) => box.querySelector("tr.fail, tr.error")),
      ...all("tr.more > td > details:not([open]), details.more-reasons:not([open])"),
    ];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
  });
})();
