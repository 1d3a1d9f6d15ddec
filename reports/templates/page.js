// Tables sort by a click or by the keyboard on a column's header; what has no value stays last, whichever way.
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

  // a link to a sorted table: #sort=table1,8,descending
  const wanted = /^#sort=([\w-]+),(\d+),(ascending|descending)$/.exec(location.hash);
  const table = wanted && document.getElementById(wanted[1]);
  if (table && table.tHead && table.tHead.rows[0].cells[wanted[2]]) {
    sort(table, Number(wanted[2]), wanted[3]);
    table.scrollIntoView();
  }
  document.documentElement.dataset.ready = "true";
})();
