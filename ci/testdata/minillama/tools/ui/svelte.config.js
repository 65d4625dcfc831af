// CMake gives LLAMA_UI_OUT_DIR; a build by hand writes to ./dist.
const outDir = process.env.LLAMA_UI_OUT_DIR ?? './dist';

export default {
	kit: {
		outDir,
		paths: { relative: true }
	}
};
