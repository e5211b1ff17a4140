// Sorts tables by a click on a head, draws bars on a logarithmic scale, and shows one year alone.

const number = new Intl.NumberFormat("en");
const valueOf = (cell) => (cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value));

function sort(table, column, head) {
  const descending = head.getAttribute("aria-sort") !== "descending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (descending ? -1 : 1) * compare(valueOf(a.cells[column]), valueOf(b.cells[column])));
  table.tBodies[0].append(...rows);
}

function drawBars(table) {
  const cells = [...table.tBodies[0].rows].map((row) => row.cells[1]).filter((cell) => cell?.dataset.value);
  const scale = table.querySelector("input").checked ? (value) => Math.log10(1 + value) : (value) => value;
  const most = Math.max(...cells.map((cell) => scale(valueOf(cell))), 1e-9);
  for (const cell of cells) cell.querySelector("rect").setAttribute("width", (100 * scale(valueOf(cell))) / most);
}

/** Whether one value hides most others: they are less than a twentieth of it. */
function isUneven(table) {
  const values = [...table.tBodies[0].rows].map((row) => Number(row.cells[1]?.dataset.value ?? 0)).sort((a, b) => b - a);
  return values[0] > 20 * values[values.length >> 1];
}

const years = JSON.parse(document.getElementById("years").textContent);
for (const table of document.querySelectorAll("table")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head.cellIndex, head));
  }
  if (!table.classList.contains("bars")) continue;
  const label = document.createElement("label");
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", checked: isUneven(table) });
  label.append(box, " logarithmic");
  table.caption.append(" ", label);
  box.addEventListener("change", () => drawBars(table));
  drawBars(table);
  const every = [...table.tBodies[0].rows];
  const ofYears = years[table.tBodies[0].dataset.table];
  document.getElementById("year")?.addEventListener("change", ({ target }) => {
    const chosen = ofYears?.[target.value];
    table.tBodies[0].replaceChildren(...(chosen ? chosen.map((each) => filled(every[0], each)) : every));
    drawBars(table);
  });
}

/** A row like another one, with another name, address and value; names are only ever text. */
function filled(like, [name, address, value]) {
  const row = like.cloneNode(true);
  row.querySelector("bdi").textContent = name;
  const link = row.querySelector("a");
  if (link) link.href = address;
  row.cells[1].dataset.value = value;
  row.querySelector("span").textContent = number.format(value);
  return row;
}

const chooser = document.getElementById("year");
if (chooser) chooser.closest("p").hidden = false; // it does nothing without this script
