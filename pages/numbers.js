// The table of all numbers: only rows in which all that is typed occurs stay, parts between commas alone.
for (const form of document.querySelectorAll(".numbers")) {
  const text = (row) => [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" | ");
  const rows = [...form.querySelectorAll("tbody tr")].map((row) => [row, text(row)]);
  const field = form.querySelector("[type=search]");

  field.addEventListener("input", () => {
    const parts = field.value.toLowerCase().split(",");
    for (const [row, text] of rows) row.hidden = !parts.every((part) => text.includes(part.trim()));
    const left = rows.filter(([row]) => !row.hidden).length;
    form.querySelector("output").textContent = `${left} of ${rows.length} numbers`;
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  field.closest("[hidden]").hidden = false;
}
