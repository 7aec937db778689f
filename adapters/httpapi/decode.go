package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// initialBuffer is the size of the buffer of a body before any of it has arrived. It does
// not depend on Content-Length: many connections that declare much and send little must
// not cost what they declare.
const initialBuffer = 2 << 10

// maxPooledBuffer is the capacity of the largest buffer that is kept for another body.
const maxPooledBuffer = 16 << 10

// bodyBuffers are empty buffers.
var bodyBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// decodeBody reads the body of r, whose length the caller has bounded, into
// target, a pointer to a struct.
func decodeBody(r request, target any) error {
	return readBody(r, func(body []byte) error { return decodeJSON(body, target) })
}

// decodeOptionalBody is decodeBody for a body that may be empty.
func decodeOptionalBody(r request, target any) error {
	return readBody(r, func(body []byte) error {
		if len(body) == 0 {
			return nil
		}
		return decodeJSON(body, target)
	})
}

// readBody calls decode with the body of r, which is valid until decode returns.
func readBody(r request, decode func(body []byte) error) error {
	if err := checkMediaType(r.Header); err != nil {
		return err
	}
	body := bodyBuffers.Get().(*bytes.Buffer)
	defer func() {
		if body.Cap() <= maxPooledBuffer {
			body.Reset()
			bodyBuffers.Put(body)
		}
	}()
	body.Grow(initialBuffer)
	if _, err := body.ReadFrom(r.Body); err != nil {
		return bodyError(err)
	}
	return decode(body.Bytes())
}

// ignoreBody reads the body of r, whose length the caller has bounded, and discards it. A
// chunked body shows only while it is read that it is too long, and must be refused before
// anything is done.
func ignoreBody(r request) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return bodyError(err)
	}
	return nil
}

func checkMediaType(h http.Header) error {
	declared, err := declaredType(h)
	if err != nil || declared == "" || declared == "application/json" {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(declared)
	if err != nil || mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return refuse(errMediaType, "the body must be application/json, not %q", declared)
	}
	return nil
}

// declaredType returns the content type of the body; empty if none is declared. It refuses
// a body that has a content encoding.
func declaredType(h http.Header) (string, error) {
	if all := h.Values("Content-Encoding"); slices.ContainsFunc(all, isEncoding) {
		return "", refuse(errMediaType, "the body must not be encoded: %q", strings.Join(all, ", "))
	}
	if all := h.Values(contentTypeHeader); len(all) > 1 {
		return "", refuse(errMediaType, "the body has one type, not several: %q", all)
	}
	return h.Get(contentTypeHeader), nil
}

// isEncoding reports whether the content encoding changes the body.
func isEncoding(name string) bool { return name != "" && !strings.EqualFold(name, "identity") }

func bodyError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(errBodyTooLarge, "the body is longer than %d bytes", tooLarge.Limit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(errSlowBody, "the body took too long to arrive")
	}
	if errors.Is(err, ports.ErrClosed) {
		return err
	}
	return refuse(errInvalidJSON, "the body ended early: %v", err)
}

// decodeJSON is strict: body must be one value in valid UTF-8 with nothing after it, without
// null, duplicate members, and members that target does not know.
func decodeJSON(body []byte, target any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return refuse(errInvalidJSON, "the body is empty")
	}
	if err := json.Unmarshal(body, target, json.RejectUnknownMembers(true)); err != nil {
		return refuse(errInvalidJSON, "%s", explain(err))
	}
	// The library treats null as absent. A client that sends null means something else.
	if bytes.Contains(body, []byte("null")) {
		return refuseNull(body)
	}
	return nil
}

// unmarshalLoosely ignores members that target does not know.
func unmarshalLoosely(text []byte, target any) error { return json.Unmarshal(text, target) }

// refuseNull looks for a null in body, which is valid JSON.
func refuseNull(body []byte) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(body))
	for {
		token, err := decoder.ReadToken()
		switch {
		case err != nil:
			return nil
		case token.Kind() == 'n':
			return refuse(errInvalidJSON, "%s must not be null", place(decoder.StackPointer()))
		}
	}
}

// explain describes a JSON error in terms of the API instead of Go types.
func explain(err error) string {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Sprintf("%v, in %s, at byte %d", syntax.Err, place(syntax.JSONPointer), syntax.ByteOffset)
	}
	meaning, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return err.Error()
	}
	where := place(meaning.JSONPointer)
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return where + " is not known"
	case meaning.GoType == nil:
		return where + " has the wrong type"
	case meaning.JSONValue != nil:
		return fmt.Sprintf("%s must be %s: %s", where, kindName(meaning.GoType), meaning.JSONValue)
	}
	return fmt.Sprintf("%s must be %s", where, kindName(meaning.GoType))
}

func place(pointer jsontext.Pointer) string {
	if pointer == "" {
		return "the body"
	}
	return fmt.Sprintf("%q", strings.Join(slices.Collect(pointer.Tokens()), "."))
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "an integer"
	case reflect.Uint64:
		return "an integer that is not negative"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// pathID returns the decoded id in the path of r.
func pathID(r request) (string, error) {
	id := chi.URLParam(r.Request, "id")
	// chi matches RawPath if it is set, otherwise the decoded Path, which must not be
	// decoded again.
	if r.URL.RawPath == "" {
		return id, nil
	}
	decoded, err := url.PathUnescape(id)
	if err != nil {
		return "", invalidRequest("the path is not properly encoded: %q", id)
	}
	return decoded, nil
}
