// The report's behaviour: an index with filters, and an episode's page where videos, curves and space share one row.
"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const colours = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#7f7f7f", "#bcbd22"];
let numbers, shown = null;

async function unpack() {
  const bytes = Uint8Array.from(atob($("numbers").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  numbers = new Int16Array(await new Response(stream).arrayBuffer());
}

// Columns of an episode's curve, arrays of `rows` numbers each
function columns(packed, rows) {
  return packed.low.map((low, i) =>
    Array.from(numbers.subarray(packed.at + i * rows, packed.at + (i + 1) * rows), (n) => low + n * packed.scale[i]));
}

function drawIndex() {
  const wanted = $("success").value, least = Number($("least").value), name = $("name").value.trim();
  const chosen = data.episodes.filter((e) =>
    (!wanted || e.success === (wanted === "yes")) && e.seconds >= least - 1e-6 && e.name.includes(name) && isDrawn(e));
  const order = $("order").value;
  if (order === "seconds") chosen.sort((a, b) => b.seconds - a.seconds);
  if (order === "metric") chosen.sort((a, b) => (b.final ?? -Infinity) - (a.final ?? -Infinity));
  $("grid").replaceChildren(...chosen.map(card));
  const successes = chosen.filter((e) => e.success).length;
  $("count").textContent = `${chosen.length} of ${data.episodes.length} episodes, ${successes} successful`;
}

// Whether what was drawn for an episode is what the filter asks for: a word, or a number in a range
function isDrawn(episode) {
  const key = $("drawn").value, value = episode.drawn[key];
  if (!key) return true;
  if (typeof value === "string") return !$("value").value || value === $("value").value;
  const [from, to] = ["from", "to"].map((id) => $(id).value);
  return value !== undefined && (from === "" || value >= Number(from)) && (to === "" || value <= Number(to));
}

// Offer the range or the words of what is chosen to filter by
function offerDrawn() {
  const values = data.episodes.map((e) => e.drawn[$("drawn").value]).filter((value) => value !== undefined);
  const words = values.filter((value) => typeof value === "string");
  $("word").hidden = !words.length;
  $("range").hidden = !values.length || words.length > 0;
  $("from").value = $("to").value = "";
  $("value").replaceChildren(...["", ...new Set(words)].sort().map((word) => new Option(word || "any", word)));
}

function card(episode) {
  const link = document.createElement("a"), picture = new Image(), text = document.createElement("div");
  link.className = "card";
  link.href = `#${episode.name}`;
  picture.src = episode.thumbnail;
  picture.alt = `last picture of ${episode.name}`;
  const word = episode.success === null ? "" : episode.success ? "success" : "no success";
  text.innerHTML = `${episode.name}<br><span class="${episode.success ? "yes" : "no"}">${word}</span> ${episode.seconds.toFixed(2)} s`;
  link.append(picture, text);
  return link;
}

// ---- an episode

class Player {
  constructor(episode) {
    this.episode = episode;
    this.row = 0;
    this.films = episode.videos.map((video) => {
      const figure = document.createElement("figure"), film = document.createElement("video");
      const caption = document.createElement("figcaption");
      film.src = video.path.split("/").map(encodeURIComponent).join("/");
      film.muted = film.playsInline = true;
      film.preload = "auto";
      caption.textContent = video.name;
      figure.append(film, caption);
      $("films").append(figure);
      return film;
    });
    $("strips").append(...episode.pictures.map(picture));
    $("scrubber").max = episode.frames - 1;
    this.plots = Object.keys(episode.curves).map((name) => plot(episode, name, this));
    this.space = new Space(episode);
    this.fit();
    this.films[0].addEventListener("ended", () => this.pause());
    this.show(0);
    this.tick = this.tick.bind(this);
    requestAnimationFrame(this.tick);
  }

  // Only when all boxes stand are their widths known
  fit() {
    for (const chart of this.plots) chart.setSize({ width: chart.root.parentElement.clientWidth - 14, height: 190 });
  }

  // The middle of a frame's time: its edges belong to either neighbour
  seconds(row) { return (row + 0.5) / this.episode.fps; }
  rowNow() { return Math.min(this.episode.frames - 1, Math.floor(this.films[0].currentTime * this.episode.fps + 1e-6)); }

  seek(row) {
    this.pause();
    for (const film of this.films) film.currentTime = this.seconds(row);
    this.show(row);
  }

  play() {
    if (this.row >= this.episode.frames - 1) this.seek(0);
    for (const film of this.films) {
      film.playbackRate = Number($("speed").value);
      film.play();
    }
    $("play").textContent = "pause";
  }

  pause() {
    for (const film of this.films) film.pause();
    $("play").textContent = "play";
  }

  tick() {
    if (shown !== this) return;
    if (!this.films[0].paused) {
      const now = this.films[0].currentTime;
      for (const film of this.films.slice(1))
        if (Math.abs(film.currentTime - now) > 0.75 / this.episode.fps && !film.seeking) film.currentTime = now;
      this.show(this.rowNow());
    }
    requestAnimationFrame(this.tick);
  }

  show(row) {
    this.row = row;
    const { frames, rows, seconds } = this.episode;
    $("scrubber").value = row;
    $("clock").textContent = `row ${row} of ${frames}, ${(row * seconds / frames).toFixed(3)} s`;
    this.sample = frames > 1 ? Math.round(row * (rows - 1) / (frames - 1)) : 0;
    for (const chart of this.plots)
      chart.setCursor({ left: chart.valToPos(chart.data[0][this.sample], "x"), top: chart.over.clientHeight / 2 });
    this.space.draw(this.sample);
  }
}

// The first, the middle and the last row of a camera's depth or segmentation
function picture({ name, image }) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption"), shown = new Image();
  shown.src = image;
  shown.alt = caption.textContent = `${name}: first, middle and last row`;
  figure.append(shown, caption);
  return figure;
}

// Of a curve's axis; one that never changes is a line in the middle
function limits(chart, low, high) {
  return low === high ? [low - 0.5, high + 0.5] : uPlot.rangeNum(low, high, 0.1, true);
}

function plot(episode, name, player) {
  const box = document.createElement("div"), head = document.createElement("h2");
  box.className = "plot";
  box.append(head);
  $("plots").append(box);
  const packed = episode.curves[name], lines = columns(packed, episode.rows);
  head.textContent = packed.unit === "1" ? name : `${name} (${packed.unit})`;
  const times = lines[0].map((_, i) => i * (episode.frames - 1) / Math.max(1, episode.rows - 1) * episode.seconds / episode.frames);
  const label = (i) => (packed.names[i] ?? (lines.length > 1 ? String(i) : name)).replace("panda_", "");
  const chart = new uPlot({
    width: 300, height: 190, scales: { x: { time: false }, y: { range: limits } },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    series: [{ label: "s", value: (_, v) => v?.toFixed(3) ?? "" },
      ...lines.map((_, i) => ({ label: label(i), stroke: colours[i % colours.length], points: { show: false }, value: (_, v) => v?.toFixed(3) ?? "" }))],
    axes: [{ size: 26 }, { size: 46 }],
  }, [times, ...lines], box);
  chart.over.addEventListener("click", () => {
    const at = chart.posToVal(chart.cursor.left, "x");
    player.seek(Math.max(0, Math.min(episode.frames - 1, Math.round(at / episode.seconds * episode.frames))));
  });
  return chart;
}

// The tool's way and the cameras' frusta in the env's frame: x to the cabinet, z up; drag to turn, wheel to zoom
class Space {
  constructor(episode) {
    const box = document.createElement("div");
    box.className = "plot";
    box.innerHTML = "<h2>tool and cameras (env frame, m); drag to turn</h2>";
    this.canvas = document.createElement("canvas");
    this.canvas.className = "space";
    box.append(this.canvas);
    $("plots").append(box);
    this.way = episode.curves.ee_position ? transpose(columns(episode.curves.ee_position, episode.rows)) : [];
    this.cameras = episode.videos.filter((v) => v.pose).map((v) => ({
      name: v.name, poses: transpose(columns(v.pose, episode.rows)), focal: v.focal ?? 1,
      aspect: episode.size[0] / episode.size[1],
    }));
    this.turn = -2.2; this.tilt = 0.5; this.zoom = 1.25;
    this.canvas.addEventListener("pointerdown", (event) => this.canvas.setPointerCapture(event.pointerId));
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      this.turn -= event.movementX * 0.01;
      this.tilt = Math.max(-1.5, Math.min(1.5, this.tilt + event.movementY * 0.01));
      this.draw(this.sample);
    });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom *= Math.exp(-event.deltaY * 0.001);
      this.draw(this.sample);
    }, { passive: false });
  }

  project([x, y, z]) {
    const dx = x - 0.2, dy = y - 0.2, dz = z - 0.5, c = Math.cos(this.turn), s = Math.sin(this.turn);
    const right = -s * dx + c * dy, away = c * dx + s * dy, ct = Math.cos(this.tilt), st = Math.sin(this.tilt);
    const depth = 4 - (ct * away + st * dz), up = ct * dz - st * away, scale = this.zoom * this.height * 1.35 / Math.max(0.3, depth);
    return [this.width / 2 + right * scale, this.height / 2 - up * scale];
  }

  line(points, colour, width = 1) {
    this.pen.beginPath();
    points.forEach((point, i) => { const [x, y] = this.project(point); i ? this.pen.lineTo(x, y) : this.pen.moveTo(x, y); });
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.pen.stroke();
  }

  draw(sample) {
    this.sample = sample;
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.pen = this.canvas.getContext("2d");
    this.pen.scale(ratio, ratio);
    for (let i = -4; i <= 4; i++) {
      this.line([[i * 0.25, -1, 0], [i * 0.25, 1, 0]], "#ddd");
      this.line([[-1, i * 0.25, 0], [1, i * 0.25, 0]], "#ddd");
    }
    [["#d62728", [0.2, 0, 0]], ["#2ca02c", [0, 0.2, 0]], ["#1f77b4", [0, 0, 0.2]]].forEach(([colour, end]) => this.line([[0, 0, 0], end], colour, 2));
    if (this.way.length) {
      this.line(this.way, "#bbb", 2);
      this.line(this.way.slice(0, sample + 1), "#d35400", 2.5);
      const [x, y] = this.project(this.way[sample]);
      this.pen.fillStyle = "#d35400";
      this.pen.beginPath();
      this.pen.arc(x, y, 4, 0, 7);
      this.pen.fill();
    }
    this.cameras.forEach((camera, i) => this.frustum(camera, sample, colours[i]));
  }

  frustum(camera, sample, colour) {
    const p = camera.poses[sample], far = 0.22, w = far / camera.focal / 2, h = w * camera.aspect;
    const place = ([x, y, z]) => [0, 4, 8].map((r) => p[r] * x + p[r + 1] * y + p[r + 2] * z + p[r + 3]);
    const corners = [[-w, -h, far], [w, -h, far], [w, h, far], [-w, h, far]].map(place), eye = place([0, 0, 0]);
    this.line([...corners, corners[0]], colour, 1.5);
    corners.forEach((corner) => this.line([eye, corner], colour, 1));
    const [x, y] = this.project(eye);
    this.pen.fillStyle = colour;
    this.pen.font = "11px system-ui";
    this.pen.fillText(camera.name, x + 4, y - 4);
  }
}

const transpose = (lines) => lines[0].map((_, i) => lines.map((line) => line[i]));

function route() {
  const name = decodeURIComponent(location.hash.slice(1)), at = data.episodes.findIndex((e) => e.name === name);
  shown?.pause();
  shown = null;
  for (const id of ["films", "strips", "plots"]) $(id).replaceChildren();
  $("index").style.display = at < 0 ? "block" : "none";
  $("player").style.display = at < 0 ? "none" : "block";
  if (at < 0) return;
  const episode = data.episodes[at], word = { true: "success", false: "no success", null: "" }[episode.success];
  $("which").textContent = [name, word, episode.failed ? "in failed/" : "", episode.text].filter(Boolean).join(" · ");
  for (const [id, other] of [["before", data.episodes[at - 1]], ["after", data.episodes[at + 1]]])
    other ? ($(id).href = `#${other.name}`) : $(id).removeAttribute("href");
  shown = new Player(episode);
}

(async () => {
  const { task, simulator, checkpoint, seed } = data.summary;
  $("title").textContent = data.name;
  $("summary").textContent = `${data.episodes.length} episodes of ${task} on ${simulator}, checkpoint ${checkpoint}, seed ${seed}`;
  const metric = data.episodes.find((e) => e.metric)?.metric, byMetric = $("order").querySelector("[value=metric]");
  if (metric) byMetric.textContent = `final ${metric}`;
  else byMetric.remove();
  await unpack();
  for (const key of new Set(data.episodes.flatMap((e) => Object.keys(e.drawn)))) $("drawn").append(new Option(key, key));
  $("drawn").addEventListener("input", offerDrawn);
  offerDrawn();
  for (const id of ["success", "least", "name", "drawn", "from", "to", "value", "order"])
    $(id).addEventListener("input", drawIndex);
  $("play").addEventListener("click", () => shown.films[0].paused ? shown.play() : shown.pause());
  $("speed").addEventListener("input", () => shown.films.forEach((film) => { film.playbackRate = Number($("speed").value); }));
  $("scrubber").addEventListener("input", () => shown.seek(Number($("scrubber").value)));
  window.addEventListener("hashchange", route);
  window.addEventListener("resize", () => { shown?.fit(); shown?.show(shown.row); });
  drawIndex();
  route();
  document.body.dataset.ready = "yes";
})();
