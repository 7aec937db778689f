package config

import (
	"github.com/spf13/pflag"
)

// Words reads args into the flags of a verb, which no variable and no file says
// anything about, and gives everything that is wrong with them.
func Words(flags *pflag.FlagSet, args []string) []error {
	said, faults := hearArgs(flags, args)
	return append(faults, said.read(flags)...)
}
