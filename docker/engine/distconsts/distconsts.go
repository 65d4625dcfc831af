// Package distconsts stands in for the module of the same name in Dagger's
// repository, which its release process generates and never publishes. The
// engine and its client take from it where programs lie and what a few images
// are called; the paths are Debian's here, so that the engine runs from
// Debian's own packages with nothing copied into /usr/local.
package distconsts

const (
	// RuncPath runs the containers. Package runc.
	RuncPath = "/usr/sbin/runc"

	// DumbInitPath is bind-mounted into every container as its first process,
	// and called without a "--" before the command. Whoever starts the engine
	// puts the program init of this module there; /run is the engine's own.
	DumbInitPath = "/run/llcuda-init"

	// EngineDefaultStateDir is never used: the engine is always started with
	// --root.
	EngineDefaultStateDir = "/var/lib/dagger"

	// EngineContainerBuiltinContentDir is where the engine's image keeps the
	// layers of its SDK images. No SDK image comes with this engine, and the
	// farm, a plain client, needs none.
	EngineContainerBuiltinContentDir = "/usr/local/share/dagger/content"

	// EngineContainerName names the container that a client looks for when it
	// has neither a version nor a runner host; the farm always gives both.
	EngineContainerName = "dagger-engine.dev"

	OCIVersionAnnotation = "org.opencontainers.image.version"
)

// What modules and terminals would use; the farm has neither.
const (
	PythonSDKManifestDigestEnvName     = "DAGGER_PYTHON_SDK_MANIFEST_DIGEST"
	TypescriptSDKManifestDigestEnvName = "DAGGER_TYPESCRIPT_SDK_MANIFEST_DIGEST"
	GoSDKManifestDigestEnvName         = "DAGGER_GO_SDK_MANIFEST_DIGEST"

	AlpineVersion = "3.20.2"
	AlpineImage   = "alpine:" + AlpineVersion
	BusyboxImage  = "busybox:1.37.0"
	GolangImage   = "golang:1.23.2-alpine"
)
