(() => {
  "use strict";

  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { figures, dark } = read("plots");
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 620; // px: below this width, the legend is placed under the plot
  const PRINTED = 660; // px: maximum width in print
  const state = {};
  let printing = false;

  const isDark = () => !printing && (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  // Copy part of a figure with the colours of the theme; lists of numbers and strings are shared.
  function themed(part, key) {
    if (Array.isArray(part)) return typeof part[0] === "object" ? part.map((each) => themed(each, key)) : part;
    if (part && typeof part === "object") {
      return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, themed(value, name)]));
    }
    return /color$/.test(key) && isDark() ? dark[part] || part : part;
  }

  // Merge the changes of a mode into a trace.
  function patched(trace, patch) {
    const result = { ...trace };
    for (const [key, value] of Object.entries(patch || {})) {
      const both = value && typeof value === "object" && trace[key] && typeof trace[key] === "object";
      result[key] = both ? { ...trace[key], ...value } : value;
    }
    return result;
  }

  // Grey out a trace of a label that is not highlighted.
  function faded(trace) {
    const color = "#8A929C";
    return { ...patched(trace, { marker: { color, opacity: 0.12 } }), line: { ...trace.line, color },
      opacity: trace.mode === "lines" ? 0.15 : trace.opacity, hoverinfo: "skip", hovertemplate: undefined };
  }

  // Place the legend according to the width.
  function arranged(layout, traces, width) {
    const entries = traces.filter((trace) => trace.showlegend !== false && trace.visible !== false);
    layout.showlegend = entries.length > 1;
    if (layout.legend.orientation === "h" || !layout.showlegend) return layout;
    const longest = Math.max(...entries.map((trace) => (trace.name || "").length));
    if (width >= NARROW) {
      layout.legend.y = 1;
      return layout;
    }
    const columns = Math.max(1, Math.floor(width / (7 * longest + 50)));
    const legend = Math.min(22 * Math.ceil(entries.length / columns) + 10, 240);
    layout.legend = { ...layout.legend, orientation: "h", x: 0, xanchor: "left", y: -0.06, yanchor: "top",
      maxheight: legend };
    if (layout.xaxis.showticklabels !== false) layout.legend.y = -0.2;
    layout.height = Math.min(layout.height, width + 40) + legend;
    return layout;
  }

  function draw(id) {
    const element = document.getElementById(id);
    const figure = figures[id];
    if (!element || !figure) return Promise.resolve();
    const { mode, highlight } = state[id];
    let traces = figure.data.map((trace, i) => patched(trace, mode && figure.modes[mode][i]));
    if (highlight) traces = traces.map((trace, i) => (figure.labels[i] === highlight.label ? trace : faded(trace)));
    const width = printing ? Math.min(PRINTED, element.clientWidth) : element.clientWidth;
    const layout = arranged(themed(figure.layout), traces, width);
    layout.width = printing ? width : undefined;
    layout.autosize = !printing;
    layout.uirevision = "zoom"; // keep the zoom, reset traces hidden by the legend
    layout.legend.uirevision = `${mode}`;
    layout.hoverlabel.bgcolor = isDark() ? "#262D36" : "#FFFFFF";
    layout.hoverlabel.bordercolor = layout.font.color;
    layout.hoverlabel.font.color = layout.font.color;
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: themed("#8A929C", "color"), activecolor: layout.font.color };
    element.style.minHeight = `${layout.height}px`;
    return window.Plotly.react(element, traces.map((trace) => themed(trace)), layout, {
      responsive: true,
      displaylogo: false,
      showTips: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      toImageButtonOptions: { format: "svg", filename: `vaexprs-${id}` },
    });
  }

  const ids = Object.keys(figures);
  for (const id of ids) {
    const modes = Object.keys(figures[id].modes || {});
    state[id] = { mode: modes[0], highlight: null };
  }
  const redraw = () => Promise.all(ids.map(draw));

  async function start() {
    for (const id of ids) {
      await draw(id);
      await new Promise((resolve) => setTimeout(resolve, 0)); // keep the page responsive
    }
    root.dataset.ready = "true";
  }

  // Controls. Browsers may keep the selection on reload, so it is read instead of reset.
  for (const input of document.querySelectorAll("input[name=colour]")) {
    const choose = () => { if (input.checked) state.embedding.mode = input.value; };
    choose();
    input.addEventListener("change", () => { choose(); draw("embedding"); });
  }
  const onSelect = (select, id, choose) => {
    choose();
    select.addEventListener("change", () => { choose(); draw(id); });
  };
  for (const select of document.querySelectorAll("select[data-highlight]")) {
    const id = select.dataset.highlight;
    onSelect(select, id, () => {
      const chosen = select.selectedOptions[0];
      state[id].highlight = chosen && chosen.value !== "" ? { label: chosen.dataset.label } : null;
    });
  }
  for (const select of document.querySelectorAll("select[data-mode]")) {
    const id = select.dataset.mode;
    onSelect(select, id, () => { state[id].mode = select.value; });
  }

  const theme = document.getElementById("theme");
  const name = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  theme.hidden = false;
  name();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    redraw();
  });
  system.addEventListener("change", () => { name(); redraw(); });

  const narrow = {};
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const now = target.clientWidth < NARROW;
      if (target.id in narrow && now !== narrow[target.id] && root.dataset.ready && !printing) draw(target.id);
      narrow[target.id] = now;
    }
  });
  document.querySelectorAll(".plot").forEach((element) => watch.observe(element));

  window.addEventListener("beforeprint", () => { printing = true; redraw(); });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });

  // Download tables, and copy the code to the clipboard.
  const say = (text) => { document.getElementById("status").textContent = text; };
  const quoted = (value) => {
    let text = value === null ? "" : String(value);
    // prevent formula injection in spreadsheets; numbers are safe
    if (typeof value === "string" && /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  for (const button of document.querySelectorAll("button[data-csv]")) {
    button.addEventListener("click", () => {
      const table = read("scorecard")[button.dataset.csv];
      const text = [table.columns, ...table.data].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
      link.download = `${button.dataset.csv}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      say("The table was downloaded.");
    });
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      let done = true;
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        window.getSelection().selectAllChildren(source);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      say(done ? "The code was copied." : "The code is selected.");
    });
  }

  start();
})();
