package manifests

import "github.com/waqasm86/llcuda-farm/matrix"

// A Host is what the client knows of a machine: its own, or one that somebody
// wrote down. `llcuda-fetch detect --json` prints it and `--as-host` reads it.
// What is not known is empty, never guessed.
type Host struct {
	// OS and Arch are Go's names: "linux", "amd64".
	OS   string `json:"os"`
	Arch string `json:"arch"`
	// Platform is "colab", "kaggle", "wsl", "container" or "local".
	Platform string `json:"platform"`
	// Kernel is what uname -r prints.
	Kernel string `json:"kernel"`
	// Glibc and GLIBCXX are the newest versions that the machine's C and C++
	// libraries define: "2.35", "3.4.30". Glibc is empty on systems with another C library.
	Glibc   string     `json:"glibc"`
	GLIBCXX string     `json:"glibcxx"`
	CPU     CPU        `json:"cpu"`
	Driver  HostDriver `json:"driver"`
	// GPUs are all GPUs of NVIDIA's, in the driver's order.
	GPUs []GPU `json:"gpus"`
	// CUDALibraries are the CUDA 12 libraries found, in the order in which they are to be tried.
	CUDALibraries []CUDALibrary `json:"cuda_libraries"`
	// DiskFree is what the store's file system has left, in bytes; negative if it is not known.
	DiskFree int64 `json:"disk_free_bytes"`
}

// A CPU is the machine's processor.
type CPU struct {
	Model string `json:"model"`
	// Features are the flags of /proc/cpuinfo, ascending.
	Features []string `json:"features"`
}

// A HostDriver is NVIDIA's kernel driver.
type HostDriver struct {
	// Version is empty where no driver is loaded: "550.54.14".
	Version string `json:"version"`
	// CUDA is the newest CUDA version that the driver says it runs: "12.4".
	CUDA string `json:"cuda"`
}

// A GPU is one GPU of NVIDIA's.
type GPU struct {
	Index int `json:"index"`
	// UUID is empty where only the PCI bus knows of the GPU: "GPU-3de16fa6-…".
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// SM is 0 where it is not known.
	SM matrix.SM `json:"sm"`
	// MemoryMiB is 0 where it is not known.
	MemoryMiB int `json:"memory_mib"`
	// MIG says that the GPU is split: its memory is not for one program.
	MIG bool `json:"mig"`
}

// A CUDALibrary is one file of the CUDA runtime on the machine.
type CUDALibrary struct {
	// Name is the soname: "libcublas.so.12".
	Name string `json:"name"`
	Path string `json:"path"`
	// Source is where it was found: "environment", "store", "pip", "toolkit" or "loader".
	Source string `json:"source"`
}
