// withLicences is upstream's configuration of Vite, in each form that Vite takes, and a plugin that writes the licence
// texts of the packages whose modules went into the UI to LICENCES_OUT. The dev-only packages of package.json
// (Storybook, Playwright, ESLint…) are not among them.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const IS_LICENCE = /^(licen[cs]e|copying|notice)/i;

function licences(out: string) {
	const folders = new Set<string>();
	let isServer = false;
	return {
		apply: 'build' as const,
		configResolved(config: any) {
			isServer = Boolean(config.build.ssr);
		},
		generateBundle(this: any) {
			// Vite 6 builds for several environments at once, and older ones once for each.
			if ((this.environment?.config.consumer ?? (isServer ? 'server' : 'client')) !== 'client') return;
			// The PWA's worker is bundled by a build of its own, from workbox.
			for (const name of readdirSync('node_modules'))
				if (name.startsWith('workbox-') && name !== 'workbox-build') folders.add(join(process.cwd(), 'node_modules', name));
			for (const id of this.getModuleIds()) {
				const match = id.match(/^\0?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//);
				if (match && existsSync(join(match[1], 'package.json'))) folders.add(match[1]);
			}
			const texts = new Map<string, string>();
			for (const folder of folders) {
				const { author, license, name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf-8'));
				const files = readdirSync(folder).filter((f) => IS_LICENCE.test(f)).sort();
				const text = files.map((f) => readFileSync(join(folder, f), 'utf-8').trim()).join('\n\n');
				texts.set(`${name} ${version}`, text || `${license}, by ${author?.name ?? author ?? 'its authors'}`);
			}
			const names = [...texts.keys()].sort();
			writeFileSync(out, names.map((n) => `\n${n}\n${'='.repeat(n.length)}\n\n${texts.get(n)}\n`).join(''));
		},
		name: 'licences'
	};
}

export function withLicences(upstream: any) {
	return async (env: unknown) => {
		const config = await (typeof upstream === 'function' ? upstream(env) : upstream);
		return { ...config, plugins: [config?.plugins, licences(process.env.LICENCES_OUT!)] };
	};
}
