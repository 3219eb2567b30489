"use strict";
// Everything here is a convenience: the page says the same without it.

// Filters: the counts above a table become buttons that dim every other cell.
for (const legend of document.querySelectorAll(".tally")) {
  const table = document.getElementById(legend.dataset.table);
  if (!table) continue;
  for (const word of legend.querySelectorAll("[data-verdict]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.verdict = word.dataset.verdict;
    button.setAttribute("aria-pressed", "false");
    button.title = "Show these cells, dim the others";
    button.append(...word.childNodes);
    word.replaceWith(button);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const b of legend.querySelectorAll("button")) b.setAttribute("aria-pressed", String(on && b === button));
      for (const cell of table.querySelectorAll("td[data-verdict]")) {
        cell.classList.toggle("dim", on && cell.dataset.verdict !== button.dataset.verdict);
      }
    });
  }
}

// Highlight: the row and the column under the pointer.
for (const table of document.querySelectorAll("table.compare")) {
  const mark = (target) => {
    const cell = target instanceof Element ? target.closest("td[data-column]") : null;
    for (const td of table.querySelectorAll("[data-column]")) {
      td.classList.toggle("lit", cell !== null && td.dataset.column === cell.dataset.column);
    }
    for (const tr of table.tBodies[0].rows) tr.classList.toggle("lit", cell !== null && tr.contains(cell));
  };
  table.addEventListener("pointerover", (event) => mark(event.target));
  table.addEventListener("pointerleave", () => mark(null));
}

// A link opens what it leads to: a fold, or the source of a function. Opening moves what the browser has scrolled to.
const open = () => {
  const entry = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  if (entry === null) return;
  const folds = entry.matches(".function") ? [...entry.querySelectorAll("details")] : [];
  for (let fold = entry.closest("details"); fold; fold = fold.parentElement.closest("details")) folds.push(fold);
  if (folds.every((fold) => fold.open)) return;
  for (const fold of folds) fold.open = true;
  entry.scrollIntoView();
};
window.addEventListener("hashchange", open);
open();

// Print: paper has nothing to click.
let shut = [];
window.addEventListener("beforeprint", () => {
  shut = [...document.querySelectorAll("details.fold:not([open])")];
  for (const fold of shut) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of shut) fold.open = false;
});

// Contents: the list closes when it has been used, or when the reader turns away.
const toc = document.querySelector(".toc");
if (toc !== null) {
  document.addEventListener("click", (event) => {
    if (event.target.closest(".toc nav a") !== null || event.target.closest(".toc") === null) toc.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") toc.open = false;
  });
}
