package httpapi_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// description is the parsed openapi.yaml, against which every exchange is checked. Safe for
// concurrent use.
type description struct {
	text     string
	tree     any // as JSON
	document *openapi3.T

	operations []operation // by path and method

	mu       sync.Mutex // guards what follows
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema // by JSON pointer
}

var loadDescription = sync.OnceValues(func() (*description, error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	if tree, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	return &description{
		text: string(text), tree: tree, document: document, operations: operationsOf(document),
		compiler: compiler, compiled: map[string]*jsonschema.Schema{},
	}, compiler.AddResource(resource, tree)
})

// resource is the URL to which the references in the schemas are relative.
const resource = "https://nodesmetadata.test/openapi.yaml"

func describe(t testing.TB) *description {
	t.Helper()
	d, err := loadDescription()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// operation is one method on one path, as described.
type operation struct {
	*openapi3.Operation
	method, path string
	item         *openapi3.PathItem
}

// pointer returns the JSON pointer to the operation.
func (o operation) pointer() string {
	return "#/paths/" + escapePointer(o.path) + "/" + strings.ToLower(o.method)
}

func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func operationsOf(document *openapi3.T) []operation {
	var all []operation
	for path, item := range document.Paths.Map() {
		for method, op := range item.Operations() {
			all = append(all, operation{op, method, path, item})
		}
	}
	slices.SortFunc(all, func(a, b operation) int {
		return cmp.Or(strings.Compare(a.path, b.path), strings.Compare(a.method, b.method))
	})
	return all
}

// find returns the operation for a method and an encoded path. A path without variables wins
// over one with variables, unless it lacks the method and its last element may also be the
// value of a variable, such as the id of a node.
func (d *description) find(method, path string) (found operation, variables map[string]string, pathKnown bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	named := d.document.Paths.Value(path) != nil
	for _, o := range d.operations {
		values, matches := match(o.path, path)
		if !matches || named && !d.canBe(o, values) {
			continue
		}
		pathKnown = true
		if o.method == method && (found.Operation == nil || len(values) < len(variables)) {
			found, variables = o, values
		}
	}
	return found, variables, pathKnown
}

// canBe reports whether the variables in the path of o may have these values.
func (d *description) canBe(o operation, values map[string]string) bool {
	for _, p := range o.parameters() {
		if p.value.In == openapi3.ParameterInPath && d.checkParameter(p, []string{values[p.value.Name]}) != nil {
			return false
		}
	}
	return true
}

func match(template, path string) (variables map[string]string, ok bool) {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	variables = map[string]string{}
	for i, part := range want {
		switch {
		case strings.HasPrefix(part, "{"):
			value, err := url.PathUnescape(got[i])
			if err != nil || value == "" {
				return nil, false
			}
			variables[strings.Trim(part, "{}")] = value
		case part != got[i]:
			return nil, false
		}
	}
	return variables, true
}

// answerOf returns the response that is described for a status, and the pointer to it.
func (d *description) answerOf(o operation, pathKnown bool, status int) (response *openapi3.Response, pointer string, err error) {
	switch {
	case o.Operation == nil && !pathKnown && status == http.StatusNotFound:
		pointer = "#/components/responses/NoSuchPath"
		return d.document.Components.Responses["NoSuchPath"].Value, pointer, nil
	case o.Operation == nil && pathKnown && status == http.StatusMethodNotAllowed:
		pointer = "#/components/responses/MethodNotAllowed"
		return d.document.Components.Responses["MethodNotAllowed"].Value, pointer, nil
	case o.Operation == nil:
		return nil, "", fmt.Errorf("the request is not described, but was answered with %d", status)
	}
	ref := o.Responses.Value(strconv.Itoa(status))
	if ref == nil {
		return nil, "", fmt.Errorf("%s has no described response with status %d", o.OperationID, status)
	}
	return ref.Value, cmp.Or(ref.Ref, fmt.Sprintf("%s/responses/%d", o.pointer(), status)), nil
}

// ofHTTP are the headers that belong to HTTP and not to this API.
var ofHTTP = []string{"Connection", "Content-Length", "Content-Type", "Date", "Transfer-Encoding"}

// checkResponse reports how a response differs from the description. It ignores body if the
// response is a stream.
func (d *description) checkResponse(request *http.Request, response *http.Response, body []byte) error {
	o, _, pathKnown := d.find(request.Method, request.URL.EscapedPath())
	described, pointer, err := d.answerOf(o, pathKnown, response.StatusCode)
	if err != nil {
		return err
	}
	faults := []error{d.checkHeaders(described, pointer, response.Header)}
	contentType := response.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	switch {
	case len(described.Content) == 0:
		if len(body) > 0 {
			faults = append(faults, errors.New("the response has a body"))
		}
	case err != nil || described.Content[mediaType] == nil:
		faults = append(faults, fmt.Errorf("the content type is %q", contentType))
	case request.Method != http.MethodHead && mediaType != eventStream:
		faults = append(faults, d.checkBody(pointer, mediaType, body))
	}
	return errors.Join(faults...)
}

const eventStream = "text/event-stream"

func (d *description) checkHeaders(described *openapi3.Response, pointer string, got http.Header) error {
	var faults []error
	known := map[string]bool{}
	for name, ref := range described.Headers {
		known[http.CanonicalHeaderKey(name)] = true
		values := got.Values(name)
		switch {
		case len(values) > 0:
			at := cmp.Or(ref.Ref, pointer+"/headers/"+name)
			value := fromText(ref.Value.Schema.Value.Type, strings.Join(values, ", "))
			if err := d.check(at+"/schema", value); err != nil {
				faults = append(faults, fmt.Errorf("the header %s: %w", name, err))
			}
		case ref.Value.Required:
			faults = append(faults, fmt.Errorf("the header %s is missing", name))
		}
	}
	for name := range got {
		if !known[name] && !slices.Contains(ofHTTP, name) {
			faults = append(faults, fmt.Errorf("the header %s is not described", name))
		}
	}
	return errors.Join(faults...)
}

// checkBody checks a body against the schema for mediaType of the response or request that
// pointer points to.
func (d *description) checkBody(pointer, mediaType string, body []byte) error {
	var value any = string(body)
	var err error
	switch {
	case strings.HasSuffix(mediaType, "json"):
		value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body))
	case strings.HasSuffix(mediaType, "yaml"):
		err = yaml.Unmarshal(body, &value)
	}
	if err != nil {
		return err
	}
	return d.check(pointer+"/content/"+escapePointer(mediaType)+"/schema", value)
}

// checkRequest reports how a request that was accepted differs from the description.
func (d *description) checkRequest(request *http.Request, body []byte) error {
	o, variables, _ := d.find(request.Method, request.URL.EscapedPath())
	if o.Operation == nil {
		return errors.New("the request is not described")
	}
	var faults []error
	query := request.URL.Query()
	for _, p := range o.parameters() {
		var given []string
		switch p.value.In {
		case openapi3.ParameterInPath:
			given = []string{variables[p.value.Name]}
		case openapi3.ParameterInHeader:
			given = request.Header.Values(p.value.Name)
		default:
			given = query[p.value.Name]
			delete(query, p.value.Name)
		}
		if err := d.checkParameter(p, given); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", p.value.Name, err))
		}
	}
	if len(query) > 0 && !o.takesAnyParameter() {
		faults = append(faults, fmt.Errorf("parameters are not described: %v", query))
	}
	if o.RequestBody != nil && (len(body) > 0 || o.RequestBody.Value.Required) {
		faults = append(faults, d.checkBody(o.pointer()+"/requestBody", o.takes(), body))
	}
	return errors.Join(faults...)
}

// takes returns the media type of a body without a Content-Type.
func (o operation) takes() string {
	content := o.RequestBody.Value.Content
	if content["application/json"] != nil {
		return "application/json"
	}
	return slices.Sorted(maps.Keys(content))[0]
}

func (d *description) checkParameter(p parameter, given []string) error {
	is := p.value.Schema.Value.Type
	switch {
	case is.Is(openapi3.TypeArray) && len(given) > 0:
		var list []any
		for _, one := range given {
			list = append(list, one)
		}
		return d.check(p.pointer+"/schema", list)
	case len(given) > 1:
		return fmt.Errorf("the parameter is given %d times", len(given))
	case len(given) == 1:
		return d.check(p.pointer+"/schema", fromText(is, given[0]))
	case p.value.Required:
		return errors.New("the parameter is missing")
	}
	return nil
}

// fromText returns the text of a header or parameter as a JSON value of the given type.
func fromText(is *openapi3.Types, text string) any {
	switch {
	case is.Is(openapi3.TypeInteger):
		return json.Number(text)
	case is.Is(openapi3.TypeBoolean) && (text == "true" || text == "false"):
		return text == "true"
	}
	return text
}

// parameter is a parameter of an operation, and where it is described.
type parameter struct {
	value   *openapi3.Parameter
	pointer string
}

func (o operation) parameters() []parameter {
	var all []parameter
	add := func(at string, parameters openapi3.Parameters) {
		for i, ref := range parameters {
			all = append(all, parameter{ref.Value, cmp.Or(ref.Ref, fmt.Sprintf("%s/parameters/%d", at, i))})
		}
	}
	add("#/paths/"+escapePointer(o.path), o.item.Parameters)
	add(o.pointer(), o.Parameters)
	return all
}

// query returns the names of the query parameters, sorted.
func (o operation) query() []string {
	var names []string
	for _, p := range o.parameters() {
		if p.value.In == openapi3.ParameterInQuery {
			names = append(names, p.value.Name)
		}
	}
	slices.Sort(names)
	return names
}

// takesAnyParameter reports whether the operation is described to accept any query parameters.
func (o operation) takesAnyParameter() bool { return slices.Contains(o.Tags, "instance") }

// eventSchema returns the pointer to the schema of the data of an event of a stream, or "" if
// there is no such event.
func (d *description) eventSchema(path, kind string) string {
	o, _, _ := d.find(http.MethodGet, path)
	if o.Operation == nil || o.Responses.Status(http.StatusOK) == nil {
		return ""
	}
	media := o.Responses.Status(http.StatusOK).Value.Content[eventStream]
	if media == nil {
		return ""
	}
	events, _ := media.Extensions["x-events"].(map[string]any)
	schema, _ := events[kind].(map[string]any)
	pointer, _ := schema["$ref"].(string)
	return pointer
}

func (d *description) checkEvent(path, kind, data string) error {
	pointer := d.eventSchema(path, kind)
	if pointer == "" {
		return fmt.Errorf("an event %q is not described", kind)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
	if err != nil {
		return err
	}
	return d.check(pointer, value)
}

// check checks value against the schema that pointer points to.
func (d *description) check(pointer string, value any) error {
	schema, err := d.schema(pointer)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

func (d *description) schema(pointer string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if schema, known := d.compiled[pointer]; known {
		return schema, nil
	}
	schema, err := d.compiler.Compile(resource + (&url.URL{Fragment: strings.TrimPrefix(pointer, "#")}).String())
	if err != nil {
		return nil, err
	}
	d.compiled[pointer] = schema
	return schema, nil
}
