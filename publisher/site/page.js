"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const input = document.getElementById("gpu");
const said = document.getElementById("said");
const result = document.getElementById("result");

// Words that tell no GPU from another.
const idle = new Set(["nvidia", "corporation", "geforce", "tesla", "gpu", "graphics", "laptop", "generation", "workstation", "server", "edition", "blackwell"]);
const words = text => text.toLowerCase()
	.replace(/\((?:r|tm)\)|[®™]/g, " ")
	.replace(/\b(rtx|gtx|gt)(?=\d)/g, "$1 ").replace(/(\d)(ti|super)\b/g, "$1 $2")
	.split(/[^a-z0-9]+/).filter(word => word && !idle.has(word));
const products = data.products.map(([name, sm, arm]) => ({name, sm, arm: Boolean(arm), words: words(name)}));

const capability = sm => Math.floor(sm / 10) + "." + sm % 10;
const kindOf = sm => data.runs.findLast(([first]) => first <= sm)?.[1];

// compare orders versions by their numbers.
function compare(a, b) {
	const x = a.split(".").map(Number), y = b.split(".").map(Number);
	for (let i = 0; i < Math.max(x.length, y.length); i++)
		if ((x[i] || 0) !== (y[i] || 0)) return (x[i] || 0) - (y[i] || 0);
	return 0;
}

// find lists the products that a name may stand for. A name that ends in dots is cut off.
function find(text) {
	const said = words(text);
	if (!said.length) return [];
	const last = said.length - 1;
	const wider = products.filter(p => said.every((word, i) => p.words.some(w => w === word || i === last && w.startsWith(word))));
	const inside = products.filter(p => p.words.every(word => said.includes(word)));
	const most = Math.max(0, ...inside.map(p => p.words.length));
	const longest = inside.filter(p => p.words.length === most);
	if (/(?:\.{2,}|…)\s*$/.test(text)) return wider.length ? wider : longest;
	return longest.length ? longest : wider;
}

// settle makes a GPU of a name, and of what else is known of it.
function settle(name, known = {}) {
	const found = find(name);
	const gpu = {name, choices: found, ...known};
	gpu.arm = found.length > 0 && found.every(p => p.arm);
	if (!gpu.sm && found.length && new Set(found.map(p => kindOf(p.sm) + " " + p.arm)).size === 1) {
		gpu.sm = found[0].sm;
		gpu.sms = [...new Set(found.map(p => p.sm))];
	}
	return gpu;
}

const number = text => /^\d+$/.test(text) ? Number(text) : undefined;
const smOf = text => { const m = /^(\d+)\.(\d)$/.exec(text); return m ? Number(m[1]) * 10 + Number(m[2]) : undefined; };

// csv reads what --query-gpu prints with a header. Names may have commas, other fields have none.
function csv(lines) {
	const at = lines.findIndex(line => /^\s*"?(?:[a-z_.]+(?: \[[^\]]*\])?, )*name(?:, |$)/.test(line));
	if (at < 0) return null;
	const fields = lines[at].trim().split(", ").map(field => field.replace(/ \[.*/, ""));
	const gpus = [];
	let driver;
	for (const line of lines.slice(at + 1)) {
		const values = line.trim().split(", "), extra = values.length - fields.length;
		if (extra < 0) break;
		const name = fields.indexOf("name");
		values.splice(name, extra + 1, values.slice(name, name + extra + 1).join(", "));
		const value = field => values[fields.indexOf(field)] ?? "";
		const mig = value("mig.mode.current") === "Enabled";
		if (/^\d+\.\d+/.test(value("driver_version"))) driver ??= value("driver_version");
		gpus.push(settle(value("name"), {sm: smOf(value("compute_cap")), memory: mig ? 0 : number(value("memory.total").replace(/ MiB$/, ""))}));
	}
	return gpus.length ? {gpus, driver} : null;
}

// table reads the table that nvidia-smi prints by itself. Drivers before 530 leave 18 letters for a name.
function table(lines) {
	const gpus = [];
	for (const line of lines) {
		const row = /\|\s*\d+\s+(\S.*?)\s+(?:(?:On|Off|N\/A|WDDM|TCC|MCDM)\s*)?\|\s*[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]\b/i.exec(line);
		if (row) { gpus.push({name: row[1]}); continue; }
		const gpu = gpus.at(-1);
		if (!gpu) continue;
		const memory = /\/\s*(\d+)\s*MiB/.exec(line);
		if (memory) gpu.memory ??= Number(memory[1]);
		if (/\|\s*Enabled\*?\s*\|\s*$/.test(line)) gpu.mig ??= true;
		if (/MIG devices:|Processes:/.test(line)) break;
	}
	return gpus.map(gpu => settle(gpu.name, {memory: gpu.mig ? 0 : gpu.memory}));
}

// read makes of a text the GPUs, the driver, and what nvidia-smi had against them.
function read(text) {
	const lines = text.split(/\r?\n/);
	const driver = /Driver Version\s*:\s*(\d+\.\d+(?:\.\d+)?)/i.exec(text)?.[1];
	const asked = csv(lines);
	if (asked) return {driver, ...asked};
	const rows = table(lines);
	if (rows.length) return {gpus: rows, driver};
	const each = (form, make) => lines.map(line => form.exec(line)).filter(Boolean).map(make);
	for (const gpus of [
		each(/^\s*GPU \d+: (.+?) \(UUID: /, m => settle(m[1])),
		each(/^\s*Product Name\s*:\s*(\S.*?)\s*$/, m => settle(m[1])),
	]) if (gpus.length) return {gpus, driver};
	const bare = each(/^\s*(.+), (\d+\.\d), (\d+\.\d+(?:\.\d+)?)(?:, (\d+) MiB)?\s*$/, m => ({gpu: settle(m[1], {sm: smOf(m[2]), memory: number(m[4] ?? "")}), driver: m[3]}));
	if (bare.length) return {gpus: bare.map(b => b.gpu), driver: bare[0].driver};
	if (/No devices were found/i.test(text)) return {gpus: [], driver, lack: "gpu"};
	if (/couldn't communicate with the NVIDIA driver|Failed to initialize NVML|nvidia-smi: (?:command )?not found/i.test(text)) return {gpus: [], lack: "driver"};
	const sm = /^\s*(?:sm_?)?(\d{2,3})\s*$/i.exec(text)?.[1] ?? /^\s*(\d+)\.(\d)\s*$/.exec(text)?.slice(1).join("");
	if (sm && (kindOf(Number(sm)) !== undefined) && !find(text).length) return {gpus: [{name: "", sm: Number(sm), choices: []}]};
	const named = lines.filter(line => line.trim());
	if (named.length < 2) return {gpus: named.map(line => settle(line.trim()))};
	return {gpus: named.filter(line => /nvidia|geforce|quadro|tesla|titan|rtx|gtx/i.test(line)).map(line => settle(line.trim())).filter(gpu => gpu.choices.length), driver};
}

// balance is the case that two kinds' memory and numbers are, in the order in which the answers list them.
function balance(a, b) {
	const sum = gpus => gpus.reduce((all, gpu) => all + gpu.memory, 0), x = sum(a), y = sum(b);
	if (x !== y) return x > y ? 0 : 1;
	return (x ? 3 : 6) + Math.sign(a.length - b.length);
}

// look finds the answer for GPUs whose capabilities are known: its number, and which GPUs it serves.
function look(gpus, driver) {
	const group = driver ? data.floors.filter(floor => compare(driver, floor) >= 0).length : data.floors.length;
	const kinds = [...new Set(gpus.map(gpu => kindOf(gpu.sm)))].sort((a, b) => a - b);
	if (kinds.length === 1) {
		const answer = data.kinds[kinds[0]][group];
		return {answer, served: answer < 0 ? [] : gpus};
	}
	if (kinds.length > 2) return null;
	const outcomes = data.pairs[kinds.join()][group];
	const [a, b] = kinds.map(kind => gpus.filter(gpu => kindOf(gpu.sm) === kind));
	let outcome = outcomes[0];
	if (new Set(outcomes).size > 1) {
		if (gpus.some(gpu => gpu.memory === undefined)) return null;
		outcome = outcomes[balance(a, b)];
	}
	if (outcome < 0) return {answer: -1, served: []};
	return {answer: outcome >> 2, served: [...outcome & 1 ? a : [], ...outcome & 2 ? b : []]};
}

function add(parent, tag, text, name) {
	const element = document.createElement(tag);
	if (text) element.textContent = text;
	if (name) element.className = name;
	parent.append(element);
	return element;
}

const clone = id => document.getElementById(id)?.content.cloneNode(true);
const title = gpu => gpu.name || "compute capability " + capability(gpu.sm);
const describe = gpu => gpu.name ? `${gpu.name}: compute capability ${(gpu.sms ?? [gpu.sm]).map(capability).join(" or ")}` : "Compute capability " + capability(gpu.sm);

// choose offers the products that a text may stand for.
function choose(gpu) {
	add(said, "p", `Which one is “${gpu.name}”?`);
	const list = add(said, "div", "", "choices");
	for (const product of gpu.choices.slice(0, 24)) {
		const button = add(list, "button", product.name);
		button.type = "button";
		button.addEventListener("click", () => { input.value = input.value.replaceAll(gpu.name, () => product.name); input.focus(); show(); });
	}
	if (gpu.choices.length > 24) add(said, "p", `There are ${gpu.choices.length - 24} more: type more of the name.`, "note");
}

// refuse says that there is no bundle, and for want of what.
function refuse(lack, text) {
	result.dataset.lack = lack;
	add(said, "p", text, "warn");
}

function show() {
	said.replaceChildren();
	result.replaceChildren();
	delete result.dataset.lack;
	const text = input.value;
	if (!text.trim()) return;
	const {gpus, driver, lack} = read(text);
	if (lack === "gpu") return refuse("gpu", "nvidia-smi found no GPU. In a container, start it with --gpus all; on Colab and Kaggle, choose a GPU for the notebook.");
	if (lack === "driver") return refuse("driver", "NVIDIA’s driver does not run. Install it; CUDA itself is not needed.");
	if (!gpus.length) return refuse("", "There is no GPU in this that the page knows. Paste all of what nvidia-smi prints, or type the GPU’s name.");
	const open = gpus.find(gpu => !gpu.sm);
	if (open?.choices.length) return choose(open);
	if (open) return refuse("", `The page does not know “${open.name}”, or the name is cut off. Paste the output of the command above: it has the compute capability.`);
	const arm = gpus.find(gpu => gpu.arm);
	if (arm) return refuse("bundle", `${arm.name} belongs to a computer with an Arm processor. The bundles are for x86-64.`);
	const found = look(gpus, driver);
	if (!found) {
		add(said, "p", "These GPUs are of different kinds, and what is best depends on their memory. llcuda-fetch plan says it on the machine.");
		const list = add(said, "ul");
		for (const gpu of gpus) add(list, "li", describe(gpu));
		return;
	}
	const steps = gpus.length === 1 || found.answer < 0 ? clone("steps-" + kindOf(gpus[0].sm)) : null;
	if (found.answer < 0) {
		const newer = look(gpus, "");
		if (newer && newer.answer >= 0) {
			refuse("bundle", `Driver ${driver} is too old for ${title(gpus[0])}. Update it; CUDA itself is not needed.`);
			if (steps) said.append(steps);
		} else refuse("bundle", `This release has no bundle for ${describe(gpus[0])}.`);
		return;
	}
	if (gpus.length === 1) add(said, "p", describe(gpus[0]) + (driver ? `. Driver ${driver} is new enough.` : "."));
	else {
		add(said, "p", driver ? `Driver ${driver} is new enough.` : "For all GPUs of the machine together:");
		const list = add(said, "ul");
		for (const gpu of gpus) add(list, "li", describe(gpu) + (found.served.includes(gpu) ? "" : " (not used)"));
	}
	if (steps && steps.querySelectorAll("li").length > 1) said.append(steps);
	result.append(clone("answer-" + found.answer));
}

document.addEventListener("click", async event => {
	const button = event.target.closest?.(".copy");
	if (!button) return;
	const code = button.parentElement.querySelector("code");
	try {
		await navigator.clipboard.writeText(code.textContent);
		button.textContent = "Copied";
		setTimeout(() => { button.textContent = "Copy"; }, 2000);
	} catch {
		getSelection().selectAllChildren(code); // the browser forbids it: the keyboard still copies
	}
});
input.addEventListener("input", show);
show();
})();
