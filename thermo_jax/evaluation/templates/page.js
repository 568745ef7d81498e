"use strict";

// Decompresses the planes of a figure: high and low bytes of 100 x the value, index of the area.
async function readPlanes(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Shows the value below the mouse in every panel of a figure.
for (const figure of document.querySelectorAll(".panels[data-values]")) {
  const areas = figure.dataset.areas.split("|");
  const [width, height] = figure.dataset.size.split(" ").map(Number);
  let planes = null;
  readPlanes(figure.dataset.values).then((read) => { planes = read; });
  const label = document.createElement("output");
  label.className = "value";
  label.hidden = true;
  figure.append(label);

  const show = (event) => {
    const [left, top, right, bottom] = event.target.dataset.box.split(" ").map(Number);
    const frame = event.target.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width - left) / (right - left);
    const y = ((event.clientY - frame.top) / frame.height - top) / (bottom - top);
    label.hidden = !planes || x < 0 || x >= 1 || y < 0 || y >= 1;
    if (label.hidden) return;
    const place = Math.floor(y * height) * width + Math.floor(x * width);
    const [high, low, index] = [0, 1, 2].map((plane) => planes[plane * width * height + place]);
    const number = (high * 256 + low) / 100;
    const digits = figure.dataset.unit === "gray level" ? 0 : 2;
    const area = areas[index] ? `, ${areas[index]}` : "";
    label.textContent = digits
      ? `${number.toFixed(digits)} ${figure.dataset.unit}${area}`
      : `${figure.dataset.unit} ${number.toFixed(digits)}${area}`;
    const room = document.documentElement.clientWidth - label.offsetWidth - 4;
    label.style.left = `${Math.min(event.clientX + 14, room)}px`;
    label.style.top = `${Math.max(event.clientY - 34, 2)}px`;
  };
  for (const image of figure.querySelectorAll("img")) {
    image.addEventListener("pointermove", show);
    image.addEventListener("pointerdown", show);
    image.addEventListener("pointerleave", () => { label.hidden = true; });
  }
}

// Sorts a table by the column whose heading is clicked; rows without a number stay last.
for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.key;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      // The title is sorted from A to Z first, numbers from the largest.
      const first = column ? "descending" : "ascending";
      const second = column ? "ascending" : "descending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [left, right] = [key(a, column), key(b, column)];
        if (!left || !right) return !left - !right;
        return sign * compare(left, right);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
