// Writes the files that llama.cpp's UI build writes, under the same names. Like SvelteKit it takes the build's version
// from the configuration and falls back on the clock, so a build that names no version is different every time.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import config from '../svelte.config.js';

const version = config.kit.version?.name ?? Date.now().toString();
const outDir = config.kit.outDir;
const immutable = join(outDir, '_app', 'immutable');

rmSync(outDir, { force: true, recursive: true });
mkdirSync(immutable, { recursive: true });

function writeHashed(folder, name, extension, text) {
	const hash = createHash('sha256').update(text).digest('base64url').slice(0, 8);
	const file = `${name}.${hash}.${extension}`;
	writeFileSync(join(folder, file), text);
	return file;
}

// clsx has no imports of its own: its module in front of ours, without the import and export lines, is the bundle.
const clsx = readFileSync('node_modules/clsx/dist/clsx.mjs', 'utf-8').replace('export default clsx;', '').replace('export function', 'function');
const app = readFileSync('src/app.js', 'utf-8').replace(/^import .*$/m, '');
const script = writeHashed(immutable, 'bundle', 'js', `const version = ${JSON.stringify(version)};\n${clsx}\n${app}`);
const style = writeHashed(immutable, 'bundle', 'css', readFileSync('src/app.css', 'utf-8'));
const workbox = writeHashed(outDir, 'workbox', 'js', 'export const precache = (cache, urls) => cache.addAll(urls);\n');

writeFileSync(join(outDir, 'index.html'), readFileSync('src/app.html', 'utf-8').replace('%bundle.js%', script).replace('%bundle.css%', style));
writeFileSync(
	join(outDir, 'sw.js'),
	`import { precache } from './${workbox}';\n` +
		`self.addEventListener('install', (e) => e.waitUntil(caches.open(${JSON.stringify(version)}).then((c) => precache(c, ['./']))));\n`
);
writeFileSync(join(outDir, 'manifest.webmanifest'), JSON.stringify({ name: 'minillama', start_url: './' }));
writeFileSync(join(outDir, '_app', 'version.json'), JSON.stringify({ version }));
writeFileSync(join(outDir, 'build.json'), JSON.stringify({ version: process.env.LLAMA_BUILD_NUMBER || 'b0000' }));
