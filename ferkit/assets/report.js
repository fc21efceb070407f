// The report's two gestures: a click on a column's title sorts by it, a click on a figure enlarges it.

const value = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};

// Numbers from low to high, then words by letter; a dash is nothing known and stays last either way.
const compare = (a, b, sign) => {
  const unknown = (x) => x === "–";
  if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
};

const sortBy = (table, header) => {
  const now = header.getAttribute("aria-sort") ?? (header.className === "words" ? "descending" : "ascending");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", now === "descending" ? "ascending" : "descending");
  const [body, column, sign] = [table.tBodies[0], header.cellIndex, now === "descending" ? 1 : -1];
  body.append(...[...body.rows].sort((a, b) => compare(value(a, column), value(b, column), sign)));
};

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    header.querySelector("button")?.addEventListener("click", () => sortBy(table, header));
  }
}

const dialog = document.createElement("dialog");
dialog.className = "enlarged";
dialog.setAttribute("aria-label", "Figure, enlarged; Escape or a click closes it");
dialog.append(document.createElement("img"));
dialog.addEventListener("click", () => dialog.close());
// Sphinx takes Escape for its search words, so the browser would not close the dialog by it.
dialog.addEventListener("keydown", (event) => event.key === "Escape" && dialog.close());
document.body.append(dialog);

for (const figure of document.querySelectorAll("article img")) {
  const enlarge = () => {
    dialog.firstChild.src = figure.src;
    dialog.firstChild.alt = figure.alt;
    dialog.showModal();
  };
  figure.tabIndex = 0;
  figure.setAttribute("role", "button");
  figure.title = "Enlarge";
  figure.addEventListener("click", enlarge);
  figure.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge();
  });
}
