"use strict";
// Charts, themes, the table of samples, printing. No text is turned into markup here.
const root = document.documentElement;
root.classList.add("scripts");
const one = (id) => document.getElementById(id);

// Charts: Bokeh draws the data of the page; the style sheet sets the colours of the axes.
const plots = JSON.parse(one("plots").textContent);
let drawn = [];
Bokeh.set_log_level("warn");
Bokeh.embed.embed_items(plots.docs, plots.items).then((views) => {
  drawn = views.flatMap((view) => view.roots).filter((view) => "force_paint" in view);
  for (const view of drawn) {
    view.canvas.events_el.removeAttribute("tabindex"); // no key has an effect there
  }
  root.dataset.drawn = String(drawn.length);
});

function recolour() {
  for (const view of drawn) view.force_paint(() => view.repaint());
}

for (const button of document.querySelectorAll("[data-series]"))
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const model of Bokeh.documents.flatMap((doc) => [...doc.all_models]))
      if (model.name === button.dataset.series) model.visible = shown;
  });

// Themes: the system's, until the button is pressed.
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
one("theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  recolour();
});
dark.addEventListener("change", recolour);

// The table of samples: its rows are in the page; here they are only hidden and sorted.
const AT_ONCE = 25;
if (one("table")) {
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  const body = one("table").tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: plain(row.textContent) }));
  const heads = [...one("table").querySelectorAll("th")];
  const several = one("run") !== null;
  let most = AT_ONCE;
  let sorted = null; // {column, sign}

  const value = (row, column) => parseFloat(row.cells[column].dataset.value);
  const order = (view) => (a, b) => {
    if (!sorted) return view ? a.row.dataset[view] - b.row.dataset[view] : 0;
    const [x, y] = [value(a.row, sorted.column), value(b.row, sorted.column)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // rows without a value come last
    return sorted.sign * (x - y);
  };

  const update = () => {
    const view = one("view").value;
    const wanted = plain(one("search").value);
    const found = rows.filter(
      ({ row, text }) =>
        (!view || view in row.dataset) &&
        (!several || !one("run").value || row.cells[0].textContent === one("run").value) &&
        text.includes(wanted),
    );
    found.sort(order(view));
    body.replaceChildren(...found.slice(0, most).map(({ row }) => row));
    one("more").hidden = found.length <= most;
    one("count").textContent = `${Math.min(most, found.length)} of ${found.length} samples`;
  };
  const again = () => {
    most = AT_ONCE;
    update();
  };

  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.ariaSort !== "descending";
      for (const other of heads) if (other.ariaSort) other.ariaSort = "none";
      head.ariaSort = down ? "descending" : "ascending";
      sorted = { column, sign: down ? -1 : 1 };
      again();
    });
  });
  one("view").addEventListener("change", () => {
    sorted = null; // a view has its own order
    for (const head of heads) if (head.ariaSort) head.ariaSort = "none";
    again();
  });
  one("run")?.addEventListener("change", again);
  one("search").addEventListener("input", again);
  one("more").addEventListener("click", () => {
    most += AT_ONCE;
    update();
  });
  one("view").selectedIndex = one("view").options.length > 1 ? 1 : 0;
  update();
}

// Printing: light theme, all details open, charts as pictures that fit the paper.
let undo = [];
addEventListener("beforeprint", () => {
  if (undo.length) return;
  const before = root.dataset.theme;
  root.dataset.theme = "light";
  undo.push(() => (before ? (root.dataset.theme = before) : delete root.dataset.theme));
  for (const part of document.querySelectorAll("details:not([open])")) {
    part.open = true;
    undo.push(() => (part.open = false));
  }
  recolour();
  for (const view of drawn) {
    const picture = new Image();
    picture.src = view.export("png").canvas.toDataURL();
    view.el.style.display = "none";
    view.el.after(picture);
    undo.push(() => {
      picture.remove();
      view.el.style.display = "";
    });
  }
});
addEventListener("afterprint", () => {
  for (const step of undo.splice(0)) step();
  recolour();
});
