// GitHub's own client makes a release on the test server, the way any user of it would, and says whether all is as it
// knows it from GitHub. The argument is JSON: {api, owner, repo, token, tag}.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { Octokit } from "@octokit/rest";

const { api, owner, repo, token, tag } = JSON.parse(process.argv[2]);
const log = { debug() {}, info() {}, warn: console.error, error() {} };
const octokit = new Octokit({ baseUrl: api, auth: token, log });
const at = { owner, repo };
const status = (promise) => promise.then((answer) => answer.status, (error) => error.status);
const sha256 = (data) => createHash("sha256").update(data).digest("hex");

// A draft: listed, read by its number, and not to be found by its tag.
const made = await octokit.rest.repos.createRelease({ ...at, tag_name: tag, name: "One", body: "Notes.", draft: true });
assert.equal(made.status, 201);
assert.equal(made.data.draft, true);
const release_id = made.data.id;
assert.equal(await status(octokit.rest.repos.getReleaseByTag({ ...at, tag })), 404);
assert.equal(await status(octokit.rest.repos.getLatestRelease(at)), 404);
const listed = await octokit.paginate(octokit.rest.repos.listReleases, { ...at, per_page: 1 });
assert.ok(listed.some((release) => release.id === release_id));
assert.equal((await octokit.rest.repos.getRelease({ ...at, release_id })).data.body, "Notes.");

// Uploads go to the address that GitHub gives, which is a template.
const upload = (name, data) =>
  octokit.request({ method: "POST", url: made.data.upload_url, name, data, headers: { "content-type": "application/octet-stream", "content-length": data.length } });
const files = { "one.tar.gz": Buffer.alloc(300_000, 1), "two.txt": Buffer.from("two\n"), "three.txt": Buffer.from("three\n") };
for (const [name, data] of Object.entries(files)) {
  const { status, data: asset } = await upload(name, data);
  assert.equal(status, 201);
  assert.equal(asset.state, "uploaded");
  assert.equal(asset.size, data.length);
  assert.equal(asset.digest, "sha256:" + sha256(data));
}
const twice = await upload("two.txt", Buffer.from("other")).catch((error) => error);
assert.equal(twice.status, 422);
assert.equal(twice.response.data.errors[0].code, "already_exists");
let assets = await octokit.paginate(octokit.rest.repos.listReleaseAssets, { ...at, release_id, per_page: 2 });
assert.deepEqual(assets.map((asset) => asset.name).sort(), Object.keys(files).sort());

// One is deleted, one is given another name and back.
const named = (name) => assets.find((asset) => asset.name === name).id;
assert.equal(await status(octokit.rest.repos.deleteReleaseAsset({ ...at, asset_id: named("three.txt") })), 204);
assert.equal(await status(octokit.rest.repos.deleteReleaseAsset({ ...at, asset_id: named("three.txt") })), 404);
delete files["three.txt"];
const renamed = await octokit.rest.repos.updateReleaseAsset({ ...at, asset_id: named("two.txt"), name: "zwei.txt", label: "Zwei" });
assert.equal(renamed.data.name, "zwei.txt");
await octokit.rest.repos.updateReleaseAsset({ ...at, asset_id: named("two.txt"), name: "two.txt" });

// Published: found by its tag and as the latest, downloaded through the API and by anybody.
const published = await octokit.rest.repos.updateRelease({ ...at, release_id, tag_name: tag, draft: false, make_latest: "true" });
assert.equal(published.data.draft, false);
assert.notEqual(published.data.published_at, null);
assert.equal((await octokit.rest.repos.getReleaseByTag({ ...at, tag })).data.id, release_id);
assert.equal((await octokit.rest.repos.getLatestRelease(at)).data.id, release_id);
assert.equal((await octokit.rest.git.getRef({ ...at, ref: `tags/${tag}` })).data.ref, `refs/tags/${tag}`);
assets = (await octokit.rest.repos.listReleaseAssets({ ...at, release_id })).data;
for (const [name, data] of Object.entries(files)) {
  const asset = assets.find((asset) => asset.name === name);
  const byAPI = await octokit.rest.repos.getReleaseAsset({ ...at, asset_id: asset.id, headers: { accept: "application/octet-stream" } });
  assert.equal(sha256(Buffer.from(byAPI.data)), sha256(data));
  const byAnybody = await fetch(asset.browser_download_url);
  assert.equal(sha256(Buffer.from(await byAnybody.arrayBuffer())), sha256(data));
}
const second = await octokit.rest.repos.createRelease({ ...at, tag_name: tag, draft: false }).catch((error) => error);
assert.equal(second.status, 422);
assert.equal(second.response.data.errors[0].code, "already_exists");
assert.equal(await status(new Octokit({ baseUrl: api, auth: "wrong", log }).rest.repos.listReleases(at)), 401);
console.log("all as on GitHub");
