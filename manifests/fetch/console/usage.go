package console

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// A UsageError is a command that was given wrongly.
type UsageError struct {
	Err error
	Way string // what to do, or empty
}

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *UsageError) Hint() string { return e.Way }

// Usage is a *UsageError.
func Usage(err error, way string) error { return &UsageError{err, way} }

// Strict makes everything that is wrong with a command line a *UsageError: unknown commands, arguments, and flags, also
// those of other commands. Its hint names the command's help, which is called with the words of prefix in front.
func Strict(root *cobra.Command, prefix string) {
	help := func(cmd *cobra.Command) string { return prefix + cmd.CommandPath() + " --help" }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var named interface{ GetSpecifiedName() string }
		if errors.As(err, &named) && cmd.Flags().Lookup(named.GetSpecifiedName()) == nil {
			if others := takers(root, named.GetSpecifiedName()); len(others) > 0 {
				flag := "--" + named.GetSpecifiedName()
				return Usage(fmt.Errorf("%s does not use %s", cmd.CommandPath(), flag), flag+" works with "+strings.Join(others, ", "))
			}
		}
		return Usage(err, help(cmd))
	})
	each(root, func(cmd *cobra.Command) {
		check := cmd.Args
		if check == nil {
			return
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return Usage(err, help(cmd))
			}
			return nil
		}
	})
}

// takers are the commands that have a flag.
func takers(root *cobra.Command, flag string) (list []string) {
	each(root, func(cmd *cobra.Command) {
		if cmd.Flags().Lookup(flag) != nil {
			list = append(list, strings.TrimPrefix(cmd.CommandPath(), root.Name()+" "))
		}
	})
	return list
}

func each(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, sub := range cmd.Commands() {
		each(sub, do)
	}
}

// Alias has a command take a flag by a former name as well, which its help does not show.
func Alias(cmd *cobra.Command, name, former string) {
	flag := cmd.Flags().Lookup(name)
	cmd.Flags().Var(flag.Value, former, flag.Usage)
	_ = cmd.Flags().MarkHidden(former) // it is there
}
