package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// prefix begins the names of the variables that are meant for this program.
const prefix = "NODESMETADATA_"

// settings are the settings that one source gives, or that all sources together give.
type settings map[string]setting

// setting is one setting as a source gives it.
type setting struct {
	where  string   // in the operator's words: a flag, a variable, or a line of the file
	values []string // more than one only for a flag that is repeated, and for a list
}

// where says where the named settings were given. For one that was not given, it is
// the flag that would give it.
func (s settings) where(names []string) string {
	places := make([]string, len(names))
	for i, name := range names {
		places[i] = cmp.Or(s[name].where, "--"+name)
	}
	return strings.Join(places, ", ")
}

// set sets flag to its value in s. All sources go through here, so that a value means
// the same in each.
func (s settings) set(flag *pflag.Flag) error {
	for _, value := range s[flag.Name].values {
		// pflag reads a list as one line of CSV, and would silently drop further lines.
		if isList(flag) && strings.ContainsAny(strings.TrimRight(value, "\r\n"), "\r\n") {
			return fmt.Errorf("%s: %q is more than one line", s[flag.Name].where, value)
		}
		if err := flag.Value.Set(value); err != nil {
			return fmt.Errorf("%s: %q is not %s", s[flag.Name].where, value, kind(flag))
		}
		if among, few := choices[flag.Name]; few && !slices.Contains(among, value) {
			return fmt.Errorf("%s: %q is none of %s", s[flag.Name].where, value, strings.Join(among, ", "))
		}
	}
	return nil
}

// read sets all flags to their values in s, and returns all faults.
func (s settings) read(flags *pflag.FlagSet) []error {
	var faults []error
	flags.VisitAll(func(flag *pflag.Flag) {
		if err := s.set(flag); err != nil {
			faults = append(faults, err)
		}
	})
	return faults
}

func isList(flag *pflag.Flag) bool { return flag.Value.Type() == "stringSlice" }

func kind(flag *pflag.Flag) string {
	switch flag.Value.Type() {
	case "bool":
		return "true or false"
	case "duration":
		return "a duration such as 500ms or 30s"
	case "uint64":
		return "a whole number"
	default:
		return "a value that can be read"
	}
}

// readSources returns the settings of each source, the weakest source first, and all faults.
func readSources(flags *pflag.FlagSet, args, environ []string) ([]settings, []error) {
	fromArgs, faults := readArgs(flags, args)
	fromEnviron, more := readEnviron(flags, environ)
	faults = append(faults, more...)
	fromFile := settings{}
	file := fromEnviron[fileFlag]
	if named, ok := fromArgs[fileFlag]; ok {
		file = named
	}
	if len(file.values) > 0 {
		var err []error
		fromFile, err = readFile(flags, file)
		faults = append(faults, err...)
	}
	return []settings{fromFile, fromEnviron, fromArgs}, faults
}

// ReadFlags reads args into the flags of a verb, which have no variables and no keys in a
// file. It returns all faults.
func ReadFlags(flags *pflag.FlagSet, args []string) []error {
	given, faults := readArgs(flags, args)
	return append(faults, given.read(flags)...)
}

// readArgs reads the flags in args. It goes on after an unknown flag, so that all faults
// are reported at once.
func readArgs(flags *pflag.FlagSet, args []string) (settings, []error) {
	var faults []error
	rest := slices.Clone(args)
	for {
		given := settings{}
		err := flags.ParseAll(rest, func(flag *pflag.Flag, value string) error {
			given[flag.Name] = setting{where: "--" + flag.Name, values: append(given[flag.Name].values, value)}
			return nil
		})
		unknown, isUnknown := errors.AsType[*pflag.NotExistError](err)
		if isUnknown {
			if at := slices.IndexFunc(rest, func(arg string) bool { return isFlag(arg, unknown) }); at >= 0 {
				faults = append(faults, fmt.Errorf("unknown flag: %s", flagName(rest[at])))
				rest = slices.Delete(rest, at, at+1)
				continue
			}
		}
		if err != nil {
			return given, append(faults, err)
		}
		for _, stray := range flags.Args() {
			faults = append(faults, fmt.Errorf("unexpected argument: %q", stray))
		}
		return given, faults
	}
}

func flagName(arg string) string {
	name, _, _ := strings.Cut(arg, "=")
	return name
}

func isFlag(arg string, unknown *pflag.NotExistError) bool {
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return strings.HasPrefix(arg, "-"+short)
	}
	return flagName(arg) == "--"+unknown.GetSpecifiedName()
}

var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// isServiceLink reports whether this is one of the variables with which Kubernetes tells
// each container about the services in its namespace. Those of a service whose name begins
// with nodesmetadata look like settings, and must not keep an instance from starting. A
// name that only ends in _PORT could be a mistyped setting, so it counts only with a URL.
func isServiceLink(name, value string) bool {
	return serviceLink.MatchString("_"+name) || strings.HasSuffix("_"+name, "_PORT") && strings.Contains(value, "://")
}

func readEnviron(flags *pflag.FlagSet, environ []string) (settings, []error) {
	given := settings{}
	var faults []error
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		name, ours := strings.CutPrefix(variable, prefix)
		if !ours || isServiceLink(name, value) {
			continue
		}
		key := strings.ToLower(name)
		if name != strings.ToUpper(name) || !isSetting(flags, key) && key != fileFlag {
			faults = append(faults, fmt.Errorf("unknown variable: %s", variable))
			continue
		}
		given[key] = setting{where: variable, values: []string{value}}
	}
	return given, faults
}

// isSetting reports whether name is a flag that also has a variable and a key.
func isSetting(flags *pflag.FlagSet, name string) bool {
	return flags.Lookup(name) != nil && name != fileFlag && name != helpFlag && name != versionFlag
}
