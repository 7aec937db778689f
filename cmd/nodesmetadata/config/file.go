package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxFile is far larger than any real file of settings. It guards against a device, or
// the wrong file.
const maxFile = 1 << 20

// readBounded reads a file of at most maxFile bytes.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxFile:
		return nil, fmt.Errorf("%s is over %d bytes", path, maxFile)
	}
	return content, nil
}

// readFile reads one YAML document: a mapping of settings to scalars or, for a list, to a
// sequence of scalars. It takes values as they are written, so that they are parsed exactly
// like those of flags.
func readFile(flags *pflag.FlagSet, named setting) (settings, []error) {
	path := named.values[len(named.values)-1]
	if path == "" {
		return settings{}, []error{fmt.Errorf("%s: must not be empty; for no file, leave it out", named.where)}
	}
	content, err := readBounded(path)
	if err != nil {
		return settings{}, []error{fmt.Errorf("%s: %w", named.where, err)}
	}
	root, err := parse(content)
	if err != nil {
		return settings{}, []error{fmt.Errorf("%s: %w", path, err)}
	}
	given := settings{}
	var faults []error
	// A mapping's content alternates between keys and values.
	for ; len(root) > 0; root = root[2:] {
		key, value := root[0], root[1]
		where := fmt.Sprintf("%s:%d: %s", path, key.Line, key.Value)
		flag := flags.Lookup(key.Value)
		_, twice := given[key.Value]
		switch {
		case !isSetting(flags, key.Value):
			faults = append(faults, fmt.Errorf("%s:%d: unknown key: %s", path, key.Line, key.Value))
			continue
		case twice:
			faults = append(faults, fmt.Errorf("%s is there twice", where))
			continue
		}
		values, err := scalars(value, isList(flag))
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %w", where, err))
			continue
		}
		given[key.Value] = setting{where: where, values: values}
	}
	return given, faults
}

// parse returns the keys and values of the only mapping in content, alternating; none if
// content has nothing but comments.
func parse(content []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the first YAML document")
	}
	root := document.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil, nil
	case root.Kind != yaml.MappingNode:
		return nil, errors.New("is not a mapping of keys to values")
	}
	return root.Content, nil
}

func scalars(node *yaml.Node, list bool) ([]string, error) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return nil, errors.New("has no value")
	case node.Kind == yaml.ScalarNode:
		return []string{node.Value}, nil
	case node.Kind != yaml.SequenceNode || !list:
		return nil, errors.New("must be a single value")
	}
	var values []string
	for _, element := range node.Content {
		if element.Kind != yaml.ScalarNode || element.Tag == "!!null" {
			return nil, errors.New("must be a list of single values")
		}
		values = append(values, element.Value)
	}
	return values, nil
}
