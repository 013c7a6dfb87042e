// A picture (file, drag and drop, camera) -> the student's class map over it, and the milliseconds it took.
// The steps are those of `sward predict`: resize as Pillow does (antialiased bilinear, fixed point, width first),
// (x / 255 - mean) / std, the network, logits enlarged bilinearly (corners not aligned), argmax.
import * as ort from "./ort/ort.wasm.bundle.min.mjs";

const $ = (id) => document.getElementById(id);
const BITS = 22; // fractional bits of Pillow's fixed point for 8-bit pixels
const canvas = $("picture");
const pen = canvas.getContext("2d", { willReadFrequently: true });
let about, session, last = null, busy = false, waiting = null, stream = null;

// ---- the student's input and output

// Source pixels and fixed-point weights of every new pixel along an axis, as Pillow computes them.
function taps(found, wanted) {
  const scale = found / wanted, support = Math.max(scale, 1), most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(wanted), weights = new Int32Array(wanted * most);
  for (let i = 0; i < wanted; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - support + 0.5), 0);
    const high = Math.min(Math.trunc(centre + support + 0.5), found);
    const raw = [];
    let sum = 0;
    for (let j = low; j < high; j++) {
      raw.push(Math.max(1 - Math.abs((j - centre + 0.5) * (1 / support)), 0));
      sum += raw.at(-1);
    }
    first[i] = low;
    raw.forEach((w, j) => { weights[i * most + j] = Math.trunc((w / sum) * (1 << BITS) + 0.5); });
  }
  return { first, weights, most };
}

// One axis of RGBA pixels resized; `step` is the distance of neighbours along it, `across` that of lines, in pixels.
function resizeAxis(source, found, wanted, lines, [step, across], [newStep, newAcross]) {
  if (found === wanted) return source;
  const { first, weights, most } = taps(found, wanted);
  const out = new Uint8ClampedArray(wanted * lines * 4);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < wanted; i++) {
      const used = Math.min(most, found - first[i]);
      for (let c = 0; c < 3; c++) {
        let total = 1 << (BITS - 1);
        for (let j = 0; j < used; j++) {
          total += source[(line * across + (first[i] + j) * step) * 4 + c] * weights[i * most + j];
        }
        out[(line * newAcross + i * newStep) * 4 + c] = total >> BITS;
      }
    }
  }
  return out;
}

function resize(pixels, [h, w], [high, wide]) {
  const narrow = resizeAxis(pixels, w, wide, h, [1, w], [1, wide]);
  return resizeAxis(narrow, h, high, wide, [wide, 1], [wide, 1]);
}

// RGBA -> the network's input (1, 3, H, W), rounded to float32 after every operation, as torch does.
function normalised(pixels, [high, wide]) {
  const area = high * wide, input = new Float32Array(3 * area), f = Math.fround;
  for (let c = 0; c < 3; c++) {
    const mean = f(about.mean[c]), std = f(about.std[c]);
    for (let i = 0; i < area; i++) input[c * area + i] = f(f(f(pixels[4 * i + c] / 255) - mean) / std);
  }
  return new ort.Tensor("float32", input, [1, 3, high, wide]);
}

// The two source cells of every pixel along an axis, and the weight of the second.
function between(cells, pixels) {
  return Array.from({ length: pixels }, (_, i) => {
    const at = Math.max(((i + 0.5) * cells) / pixels - 0.5, 0), low = Math.min(Math.floor(at), cells - 1);
    return [low, Math.min(low + 1, cells - 1), at - low];
  });
}

// Logits (1, K, h, w) -> class of every pixel (H, W).
function classMap({ data, dims: [, count, h, w] }, [high, wide]) {
  const rows = between(h, high), columns = between(w, wide), map = new Uint8Array(high * wide);
  for (let y = 0; y < high; y++) {
    const [top, below, v] = rows[y];
    for (let x = 0; x < wide; x++) {
      const [left, right, u] = columns[x];
      let best = -Infinity;
      for (let k = 0; k < count; k++) {
        const a = (k * h + top) * w, b = (k * h + below) * w;
        const value = (1 - v) * ((1 - u) * data[a + left] + u * data[a + right])
          + v * ((1 - u) * data[b + left] + u * data[b + right]);
        if (value > best) { best = value; map[y * wide + x] = k; }
      }
    }
  }
  return map;
}

async function predict(image) {
  const began = performance.now(), size = [image.height, image.width];
  const input = normalised(resize(image.data, size, about.size), about.size);
  const asked = performance.now();
  const { logits } = await session.run({ images: input });
  const answered = performance.now();
  const map = classMap(logits, size);
  return { image, map, network: answered - asked, all: performance.now() - began };
}

// ---- what is seen

function draw() {
  const { image, map } = last, seen = new Uint8ClampedArray(image.data), k = about.opacity;
  for (let i = 0; i < map.length && $("shown").checked; i++) {
    for (let c = 0; c < 3 && map[i]; c++) seen[4 * i + c] = (1 - k) * seen[4 * i + c] + k * about.colours[map[i]][c];
  }
  [canvas.width, canvas.height] = [image.width, image.height];
  pen.putImageData(new ImageData(seen, image.width), 0, 0);
}

function show(result) {
  last = result;
  const { image, map } = result, count = new Array(about.classes.length).fill(0);
  map.forEach((k) => { count[k] += 1; });
  const shares = about.classes.map((name, k) => `${name} ${((100 * count[k]) / map.length).toFixed(1)} %`);
  draw();
  canvas.hidden = false;
  $("hint").hidden = true;
  $("save").disabled = false;
  canvas.setAttribute("aria-label", `picture of ${image.width} × ${image.height} pixels with mask: ${shares.join(", ")}`);
  $("classes").replaceChildren(...about.classes.map((_, k) => {
    const item = document.createElement("li"), patch = document.createElement("i");
    patch.style.background = `rgb(${about.colours[k]})`;
    item.append(patch, shares[k]);
    return item;
  }));
  say(`${result.all.toFixed(0)} ms, of them ${result.network.toFixed(0)} ms in the network `
    + `(${image.width} × ${image.height} pixels, resized to ${about.size[1]} × ${about.size[0]} for the network)`);
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

// One picture at a time; of those that come meanwhile the latest is next.
async function take(image) {
  if (busy) { waiting = image; return; }
  busy = true;
  try {
    show(await predict(image));
  } catch (error) {
    say(`the student could not be run: ${error.message ?? error}`, true);
  }
  busy = false;
  const next = waiting;
  waiting = null;
  if (next) await take(next);
}

// Pixels over black, as `sward predict` reads transparency; colour profiles are not applied there either.
function pixelsOf(source, width, height) {
  const sheet = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  sheet.drawImage(source, 0, 0);
  return sheet.getImageData(0, 0, width, height);
}

async function open(file) {
  if (!file) return;
  stopCamera();
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    await take(pixelsOf(bitmap, bitmap.width, bitmap.height));
  } catch {
    say(`${file.name} is not a picture that this browser reads; save it as PNG or JPEG`, true);
  }
}

// ---- camera

async function startCamera() {
  const video = $("video");
  try {
    if (!navigator.mediaDevices) throw new Error("the page must come from https:// or http://localhost");
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say(`no camera: ${error.message}`, true);
    return;
  }
  video.srcObject = stream;
  $("camera").setAttribute("aria-pressed", "true");
  $("camera").textContent = "Stop the camera";
  await video.play();
  while (stream) {
    await take(pixelsOf(video, video.videoWidth, video.videoHeight));
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Use the camera";
}

// ---- mask as a file: grey PNG of class indices

function save() {
  const { image, map } = last, sheet = document.createElement("canvas");
  const grey = new Uint8ClampedArray(4 * map.length).map((_, i) => (i % 4 === 3 ? 255 : map[i >> 2]));
  [sheet.width, sheet.height] = [image.width, image.height];
  sheet.getContext("2d").putImageData(new ImageData(grey, image.width), 0, 0);
  sheet.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "mask.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

// ---- start

function connect() {
  const drop = document.body;
  $("file").addEventListener("change", () => open($("file").files[0]));
  $("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  $("save").addEventListener("click", save);
  $("shown").addEventListener("change", () => last && draw());
  drop.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  drop.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
  $("controls").hidden = false;
}

try {
  say("loading the student …");
  about = await (await fetch("page.json")).json();
  document.title = $("name").textContent = about.name;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  session = await ort.InferenceSession.create("student.onnx", { executionProviders: ["wasm"] });
  await predict(new ImageData(8, 8)); // the first call compiles, so that no picture's time includes it
  connect();
  say("ready");
} catch (error) {
  say(`the student could not be loaded: ${error.message ?? error}`, true);
}
