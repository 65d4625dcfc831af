// Does one thing with the Hub by the official client: node hub.mjs '{"do": …}'. The answer is one line of JSON.
import { openAsBlob } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

import * as hub from "@huggingface/hub";

console.debug = () => {}; // the client says there what it downloads

const asked = JSON.parse(process.argv[2]);
let downloads = 0; // of files from the Hub or its storage

// fetch, but counting.
async function counted(input, init) {
	const address = String(input instanceof Request ? input.url : input);
	const response = await fetch(input, init);
	if ((init?.method ?? "GET") === "GET" && address.includes("/resolve/")) {
		downloads++;
	}
	return response;
}

const common = { repo: asked.repo, hubUrl: asked.hub, accessToken: asked.token || undefined, fetch: counted };

const deeds = {
	create: () => hub.createRepo({ ...common, visibility: asked.visibility }),
	async upload() {
		const operations = [];
		for (const [path, file] of Object.entries(asked.files)) {
			operations.push({ operation: "addOrUpdate", path, content: await openAsBlob(file) });
		}
		const out = await hub.commit({ ...common, title: "Upload", operations, parentCommit: asked.parent || undefined, useXet: false });
		return out.commit.oid;
	},
	async list() {
		const files = {};
		for await (const file of hub.listFiles({ ...common, recursive: true })) {
			if (file.type === "file") {
				files[file.path] = { size: file.size, oid: file.lfs?.oid ?? file.oid, large: Boolean(file.lfs) };
			}
		}
		return files;
	},
	async download() {
		const blob = await hub.downloadFile({ ...common, path: asked.path, revision: asked.revision });
		if (!blob) {
			throw new Error(`no file ${asked.path}`);
		}
		await mkdir(dirname(asked.to), { recursive: true });
		await writeFile(asked.to, Buffer.from(await blob.arrayBuffer()));
		return blob.size;
	},
	async info() {
		const model = await hub.modelInfo({ ...common, name: asked.repo, additionalFields: ["sha", "cardData", "tags"] });
		return { sha: model.sha, cardData: model.cardData, tags: model.tags };
	},
	async cache() {
		const path = await hub.downloadFileToCacheDir({ ...common, path: asked.path, revision: asked.revision, cacheDir: asked.cache });
		return { path, downloads };
	},
	async scan() {
		const found = await hub.scanCacheDir(asked.cache);
		return {
			warnings: found.warnings.map(String),
			files: found.repos.flatMap((repo) =>
				repo.revisions.flatMap((revision) =>
					revision.files.map((file) => ({
						repo: repo.id.name,
						commit: revision.commitOid,
						refs: revision.refs,
						path: file.path,
						blob: file.blob.path,
						size: file.blob.size,
					})),
				),
			),
		};
	},
};

try {
	console.log(JSON.stringify({ value: (await deeds[asked.do]()) ?? null }));
} catch (error) {
	console.log(JSON.stringify({ error: String(error), status: error.statusCode ?? 0 }));
}
