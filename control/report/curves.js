// Draws the curves of a report. A figure is drawn when it first comes near the window, and again when a control changes.
(() => {
  const { algorithms, plots } = JSON.parse(document.getElementById("curves-data").textContent);
  const looks = Object.fromEntries(algorithms.map((look) => [look.name, look]));
  const controls = document.getElementById("curves-controls");
  const narrow = matchMedia("(max-width: 600px)").matches;
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function traces(row, axis) {
    const { color, dash } = looks[row.algo];
    const known = row.iqm.flatMap((value, i) => (value === null ? [] : [i]));
    const at = (field) => known.map((i) => row[field][i]);
    const common = { name: escaped(row.algo), mode: "lines", type: "scatter", showlegend: false };
    const band = {
      ...common, x: [...at(axis), ...at(axis).reverse()], y: [...at("high"), ...at("low").reverse()],
      fill: "toself", fillcolor: color + "22", line: { width: 0 }, hoverinfo: "skip",
    };
    const line = {
      ...common, x: at(axis), y: at("iqm"), line: { color, dash, width: 2 },
      customdata: known.map((i) => [row.low[i], row.high[i]]),
      hovertemplate: "%{y:.4~g} [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]",
    };
    return [band, line];
  }

  // Plotly waits in the page as text until a figure needs it: reading its 5 MB would hold up the opening.
  function start() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }

  function draw(figure) {
    start();
    const plot = plots[figure.dataset.plot];
    const axis = controls.elements.axis.value;
    const shown = new Set([...controls.querySelectorAll("[name=algo]:checked")].map((box) => box.value));
    const data = plot.rows.filter((row) => shown.has(row.algo)).flatMap((row) => traces(row, axis));
    const layout = {
      title: { text: escaped(plot.env), font: { size: 15 }, y: 0.97 },
      margin: { l: 56, r: 12, t: 34, b: 44 }, height: 320, font: { family: "system-ui, sans-serif", size: 12 },
      hovermode: "x unified", dragmode: narrow ? false : "zoom", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      xaxis: {
        title: { text: axis === "steps" ? "environment steps" : "wall-clock seconds of training" },
        gridcolor: "#e8e8e8", zeroline: false, fixedrange: narrow,
      },
      yaxis: {
        title: { text: plot.label }, type: plot.log ? "log" : "linear", gridcolor: "#e8e8e8", zeroline: false,
        fixedrange: narrow,
      },
    };
    Plotly.react(figure, data, layout, { responsive: true, displayModeBar: false });
    figure.dataset.drawn = "";
  }

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { near.unobserve(target); draw(target); }
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll("[data-plot]").forEach((figure) => near.observe(figure));
  controls.addEventListener("change", () => document.querySelectorAll("[data-drawn]").forEach(draw));
})();
