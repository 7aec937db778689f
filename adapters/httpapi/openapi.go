package httpapi

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
)

// openAPI describes the whole API. Tests check every answer against it.
//
//go:embed openapi.yaml
var openAPI []byte

var (
	yamlType   = []string{"application/yaml"}
	openAPITag = []string{contentTag(openAPI)}
)

// contentTag returns the ETag of content that changes only with the build.
func contentTag(content []byte) string {
	sum := sha256.Sum256(content)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

func (s *Server) openapi(_ context.Context, r request) (answer, error) {
	if err := checkMatch(r, openAPITag[0]); err != nil {
		return answer{}, err
	}
	a := answer{body: openAPI, contentType: yamlType, etag: openAPITag}
	if notModified(r, openAPITag[0]) {
		a.status = http.StatusNotModified
	}
	return a, nil
}
