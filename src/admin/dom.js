// Building and changing elements. Texts go in as text only: names of queues are chosen by clients, so nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element with a class, a text and children, each of which may be missing. */
export function element(tag, className = "", text = "", ...children) {
  const made = document.createElement(tag);
  if (className !== "") made.className = className;
  if (text !== "") made.textContent = text;
  made.append(...children);
  return made;
}

/** A new SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes a text only if it differs, so that a selection in it survives a poll. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Changes an attribute only if it differs. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/**
 * Fills a table with rows of texts: `head` is a list of header rows, each a list of {text, span, className}; `rows` have a text per
 * column, the first of which heads its row. Cells are kept as long as the shape stays.
 */
export function fillTable(table, head, rows) {
  const shape = JSON.stringify([head, rows.length, rows[0]?.length]);
  if (table.dataset.shape !== shape) {
    table.dataset.shape = shape;
    const headRow = (cells) =>
      element("tr", "", "", ...cells.map((cell) => {
        const th = element("th", cell.className ?? "", cell.text);
        th.scope = cell.span ? "colgroup" : "col";
        th.colSpan = cell.span ?? 1;
        return th;
      }));
    const bodyRow = (cells) =>
      element("tr", "", "", ...cells.map((_, at) => {
        const cell = element(at === 0 ? "th" : "td", at === 0 ? "" : (head.at(-1)[at]?.className ?? ""));
        if (at === 0) cell.scope = "row";
        return cell;
      }));
    table.replaceChildren(element("thead", "", "", ...head.map(headRow)), element("tbody", "", "", ...rows.map(bodyRow)));
  }
  rows.forEach((cells, row) => cells.forEach((text, column) => setText(table.tBodies[0].rows[row].cells[column], text)));
}
