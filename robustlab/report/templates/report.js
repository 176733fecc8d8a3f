// Filters the list of examples, and shows it piece by piece. Without it the whole list stands.
(() => {
  "use strict";
  const STEP = 50;
  const form = document.getElementById("filter");
  const list = document.getElementById("entries");
  if (!form || !list) return;
  const entries = Array.from(list.children);
  const words = new Map();
  const { status, recipe, search } = form.elements;
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  let limit = STEP;

  const text = (entry) => {
    if (!words.has(entry)) {
      const parts = entry.querySelectorAll(".id, dd, .warning, .note");
      const joined = Array.from(parts, (part) => part.textContent).join("\n");
      words.set(entry, joined.toLowerCase());
    }
    return words.get(entry);
  };
  const fits = (entry, wanted) =>
    (!status.value || entry.dataset.status === status.value) &&
    (!recipe ||
      recipe.value === "" ||
      (recipe.value === "worst" ? "worst" in entry.dataset
        : entry.dataset.recipe === recipe.value.slice(1))) &&
    (!wanted || text(entry).includes(wanted));
  const show = () => {
    const wanted = search.value.trim().toLowerCase();
    let number = 0;
    for (const entry of entries) {
      const fit = fits(entry, wanted);
      if (fit) number += 1;
      entry.hidden = !fit || number > limit;
    }
    const shown = Math.min(number, limit);
    found.textContent = shown < number
      ? `${shown.toLocaleString("en")} of ${number.toLocaleString("en")} found`
      : `${number.toLocaleString("en")} found`;
    more.hidden = shown === number;
  };
  let waiting;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { limit = STEP; show(); }, 100);
  });
  more.querySelector("button").addEventListener("click", () => { limit += STEP; show(); });
  form.hidden = false;
  show();
})();
