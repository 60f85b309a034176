// An explorer: a control that moves shows another picture.  All of them were drawn when its notebook ran.
for (const explorer of document.querySelectorAll(".explorer")) {
  const pages = JSON.parse(explorer.dataset.pages); // {"0 2": [file, what it shows]}, an index for each control
  const controls = [...explorer.querySelectorAll("fieldset")];
  const picture = explorer.querySelector("img");
  const words = explorer.querySelector("[aria-live]");

  const index = (control) => control.querySelector(":checked, [type=range]").value;
  const page = () => pages[controls.map(index).join(" ")];

  function goBack(control) {
    const first = control.querySelector("input");
    if (first.type === "range") first.value = 0;
    else first.checked = true;
  }

  explorer.addEventListener("input", (event) => {
    if (!page()) controls.filter((control) => !control.contains(event.target)).forEach(goBack);
    for (const slider of explorer.querySelectorAll("[type=range]")) {
      const label = JSON.parse(slider.dataset.labels)[slider.value];
      slider.setAttribute("aria-valuetext", label);
      slider.nextElementSibling.value = label;
    }
    [picture.src, picture.alt] = page();
    words.textContent = picture.alt;
  });
  explorer.addEventListener("submit", (event) => event.preventDefault());
  explorer.querySelector(".explorer-controls").hidden = false;
}
