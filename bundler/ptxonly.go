package bundler

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

const (
	// entrySM is where the header of a fatbin's entry has the SM.
	entrySM = 28
	// hiddenSM is one that no GPU runs whose driver compiles the PTX of a bundle: code for Maxwell.
	hiddenSM = 50
)

// HideCubins changes a library so that a driver finds nothing but the PTX in it, as on a GPU newer than all cubins there:
// each cubin's entry then names an SM that the GPU cannot run. It returns how many there were. A library with a cubin that
// no PTX replaces is an error, and so is one with no cubin. CUDA_FORCE_PTX_JIT will not do for this: it hides the cubins of
// all libraries of a process, and a CUDA runtime that was pruned has no PTX.
func HideCubins(library *os.File) (int, error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("hiding the cubins of %s: %w", library.Name(), err) }
	file, err := elf.NewFile(library)
	if err != nil {
		return fail(err)
	}
	section := file.Section(sectionFatbin)
	if section == nil {
		return fail(fmt.Errorf("it has no section %s", sectionFatbin))
	}
	code := io.NewSectionReader(library, int64(section.Offset), int64(section.FileSize))
	var cubins []int64 // where their entries begin in the section
	err = walkContainers(code, code.Size(), func(at, start, end int64) error {
		hidden, ptx := 0, false
		for start < end {
			entry, next, err := readEntry(code, start, end)
			if err != nil {
				return err
			}
			if entry.Kind == Cubin {
				cubins = append(cubins, start)
				hidden++
			}
			ptx = ptx || entry.Kind == PTX
			start = next
		}
		if hidden > 0 && !ptx {
			return fatbinErrorf(at, "the container has a cubin and no PTX")
		}
		return nil
	})
	if err == nil && len(cubins) == 0 {
		err = fmt.Errorf("it has no cubin")
	}
	if err != nil {
		return fail(err)
	}
	for _, at := range cubins {
		if _, err := library.WriteAt(binary.LittleEndian.AppendUint32(nil, hiddenSM), int64(section.Offset)+at+entrySM); err != nil {
			return fail(err)
		}
	}
	return len(cubins), nil
}
