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

// sayings is what was said about each setting, by one source or by the one that
// has the last word.
type sayings map[string]saying

// saying is what one source says about one setting.
type saying struct {
	where  string   // as an operator would look for it
	values []string // more than one only of flags that are repeated, and of lists
}

// where names the places in which settings were decided; for one that nobody
// mentioned, the flag with which that could be done.
func (s sayings) where(settings []string) string {
	places := make([]string, len(settings))
	for i, setting := range settings {
		places[i] = cmp.Or(s[setting].where, "--"+setting)
	}
	return strings.Join(places, ", ")
}

// set gives flag its value. All sources end here, so that all are understood
// alike.
func (s sayings) set(flag *pflag.Flag) error {
	for _, value := range s[flag.Name].values {
		// A list is read as one line of CSV; what follows would be dropped without a word.
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

// read gives flags their values, and what is wrong with these.
func (s sayings) read(flags *pflag.FlagSet) []error {
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

// readSources gives what each source says, the weakest first, and what is wrong with that.
func readSources(flags *pflag.FlagSet, args, environ []string) ([]sayings, []error) {
	fromArgs, faults := readArgs(flags, args)
	fromEnviron, more := readEnviron(flags, environ)
	faults = append(faults, more...)
	fromFile := sayings{}
	file := fromEnviron[fileFlag]
	if named, ok := fromArgs[fileFlag]; ok {
		file = named
	}
	if len(file.values) > 0 {
		var err []error
		fromFile, err = readFile(flags, file)
		faults = append(faults, err...)
	}
	return []sayings{fromFile, fromEnviron, fromArgs}, faults
}

// ReadFlags reads args into the flags of a verb, which no variable and no file says
// anything about, and gives everything that is wrong with them.
func ReadFlags(flags *pflag.FlagSet, args []string) []error {
	said, faults := readArgs(flags, args)
	return append(faults, said.read(flags)...)
}

// readArgs goes on after a flag that it does not know, so that all of them are
// told at once.
func readArgs(flags *pflag.FlagSet, args []string) (sayings, []error) {
	var faults []error
	rest := slices.Clone(args)
	for {
		said := sayings{}
		err := flags.ParseAll(rest, func(flag *pflag.Flag, value string) error {
			said[flag.Name] = saying{where: "--" + flag.Name, values: append(said[flag.Name].values, value)}
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
			return said, append(faults, err)
		}
		for _, stray := range flags.Args() {
			faults = append(faults, fmt.Errorf("unexpected argument: %q", stray))
		}
		return said, faults
	}
}

func flagName(arg string) string {
	name, _, _ := strings.Cut(arg, "=")
	return name
}

func isFlag(arg string, unknown *pflag.NotExistError) bool {
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return strings.HasPrefix(arg, "-"+short) && !strings.HasPrefix(arg, "--")
	}
	return flagName(arg) == "--"+unknown.GetSpecifiedName()
}

var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// isServiceLink says whether this is one of the variables by which Kubernetes tells
// each container of the services in its namespace: one that is called nodesmetadata,
// or begins so, must not keep the instances behind it from starting. A mere _PORT is
// one only with the URL that Kubernetes gives it: it may well be a setting, mistyped.
func isServiceLink(name, value string) bool {
	return serviceLink.MatchString("_"+name) || strings.HasSuffix("_"+name, "_PORT") && strings.Contains(value, "://")
}

func readEnviron(flags *pflag.FlagSet, environ []string) (sayings, []error) {
	said := sayings{}
	var faults []error
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		name, ours := strings.CutPrefix(variable, prefix)
		if !ours || isServiceLink(name, value) {
			continue
		}
		setting := strings.ToLower(name)
		if name != strings.ToUpper(name) || !isSetting(flags, setting) && setting != fileFlag {
			faults = append(faults, fmt.Errorf("unknown variable: %s", variable))
			continue
		}
		said[setting] = saying{where: variable, values: []string{value}}
	}
	return said, faults
}

// isSetting says whether name is a flag for which a variable and a key exist.
func isSetting(flags *pflag.FlagSet, name string) bool {
	return flags.Lookup(name) != nil && name != fileFlag && name != helpFlag && name != versionFlag
}
