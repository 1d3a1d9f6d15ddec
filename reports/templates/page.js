// Tables sort by a click or by the keyboard on a column's header; what has no value stays last, whichever way. Rows can
// be filtered by what stands in them; a chapter that is folded opens for a link into it, for a filter and on paper.
(function () {
  "use strict";

  function value(cell) {
    const sort = cell.dataset.sort;
    if (sort === undefined) return null;
    return cell.dataset.kind === "number" ? Number(sort) : sort;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function sort(table, column, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const header of table.tHead.rows[0].cells) header.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => {
        // numbers start with the largest, words with A
        const first = header.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = header.getAttribute("aria-sort") === first ? other : first;
        sort(table, column, direction);
        history.replaceState(null, "", "#sort=" + [table.id, column, direction].join(","));
      });
    });
  }

  const chapters = document.querySelectorAll("details.chapter");

  // every word has to be in the row
  const filter = document.querySelector("input[type=search]");
  const state = document.getElementById("filtered");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of document.querySelectorAll("table.sortable tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    for (const chapter of chapters) if (words.length && chapter.querySelector("tbody tr:not([hidden])")) chapter.open = true;
    state.textContent = words.length ? `${shown} rows` : "";
  });

  function unfold() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const chapter = target && (target.closest("details.chapter") || target.querySelector("details.chapter"));
    if (chapter) chapter.open = true;
  }
  addEventListener("hashchange", unfold);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  unfold();

  // a link to a sorted table: #sort=table1,8,descending
  const wanted = /^#sort=([\w-]+),(\d+),(ascending|descending)$/.exec(location.hash);
  const table = wanted && document.getElementById(wanted[1]);
  if (table && table.tHead && table.tHead.rows[0].cells[wanted[2]]) {
    sort(table, Number(wanted[2]), wanted[3]);
    const chapter = table.closest("details.chapter");
    if (chapter) chapter.open = true;
    table.scrollIntoView();
  }
  document.documentElement.dataset.ready = "true";
})();
