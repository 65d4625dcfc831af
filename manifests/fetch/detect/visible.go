package detect

import (
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// The variables that decide which GPUs CUDA shows to a program, and in which order.
const (
	visibleVariable = "CUDA_VISIBLE_DEVICES"
	orderVariable   = "CUDA_DEVICE_ORDER"
)

// visibleGPUs are the GPUs that CUDA_VISIBLE_DEVICES leaves of those that nvidia-smi lists, in the
// variable's order, as the driver 580 reads it: the list ends at the first entry that names no GPU,
// and one that names a GPU twice names none. The first entry reports whether all are indices or
// UUIDs, which may be shortened as long as they name one GPU. ambiguous reports whether the entries
// are indices in CUDA's own order, the fastest GPU first, which only CUDA knows, and the order
// matters. https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
func visibleGPUs(gpus []manifests.GPU, value, order string) (left []manifests.GPU, ambiguous bool) {
	byUUID := strings.HasPrefix(value, "GPU-") || strings.HasPrefix(value, "MIG-")
	var picked []int
	for entry := range strings.SplitSeq(value, ",") {
		at := -1
		if byUUID {
			at = findByPrefix(gpus, strings.TrimRight(entry, " "))
		} else {
			at = parseIndex(entry)
		}
		if at < 0 || at >= len(gpus) {
			break
		}
		if slices.Contains(picked, at) {
			return nil, false
		}
		picked = append(picked, at)
	}
	for i, at := range picked {
		gpu := gpus[at]
		gpu.Index = i
		left = append(left, gpu)
	}
	return left, !byUUID && order != "PCI_BUS_ID" && len(picked) > 0 && len(picked) < len(gpus) && !areAlike(gpus)
}

// parseIndex reads an entry as CUDA does, by strtol: "1gpu" is 1.
func parseIndex(entry string) int {
	entry = strings.TrimPrefix(strings.TrimSpace(entry), "+")
	end := strings.IndexFunc(entry, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		entry = entry[:end]
	}
	n, err := strconv.Atoi(entry)
	if err != nil {
		return -1
	}
	return n
}

// findByPrefix finds the one GPU that an entry names. A MIG slice stands for its GPU, whose UUID is
// in the older form of its name, "MIG-GPU-…/1/0". In the newer form, "MIG-…", it is not: then the
// first GPU that is split stands for all that are.
func findByPrefix(gpus []manifests.GPU, entry string) int {
	uuid, slice := strings.CutPrefix(entry, "MIG-")
	if slice && !strings.HasPrefix(uuid, "GPU-") {
		return slices.IndexFunc(gpus, func(gpu manifests.GPU) bool { return gpu.MIG })
	}
	uuid, _, _ = strings.Cut(uuid, "/")
	found := -1
	for i, gpu := range gpus {
		if slice && !gpu.MIG || len(gpu.UUID) < len(uuid) || !strings.EqualFold(gpu.UUID[:len(uuid)], uuid) {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = i
	}
	return found
}

// areAlike reports whether any of the GPUs will do in the place of any other.
func areAlike(gpus []manifests.GPU) bool {
	return !slices.ContainsFunc(gpus, func(gpu manifests.GPU) bool {
		return gpu.SM != gpus[0].SM || gpu.MemoryMiB != gpus[0].MemoryMiB || gpu.Name != gpus[0].Name || gpu.MIG != gpus[0].MIG
	})
}
