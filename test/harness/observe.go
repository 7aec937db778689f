package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Exchange is one request, as it was answered by the address that it was sent to:
// what is redirected are two of them.
type Exchange struct {
	Method, Path string
	To           string
	Began        time.Time
	Took         time.Duration // until the headers of the answer
	Status       int           // 0: there was no answer
	Header       http.Header
	Code         string // of an answer of 500 and more; empty: it is no problem document
	Err          error
}

// Observed gives a client of the same address, on the same connections, that
// tells of each exchange. see is called from many goroutines.
func (c *Client) Observed(see func(Exchange)) *Client {
	observed, plain := *c, *c.http
	plain.Transport = observer{c.http.Transport, see}
	observed.http = &plain
	return &observed
}

type observer struct {
	http.RoundTripper
	see func(Exchange)
}

// RoundTrip implements http.RoundTripper.
func (o observer) RoundTrip(request *http.Request) (*http.Response, error) {
	e := Exchange{Method: request.Method, Path: request.URL.Path, To: request.URL.Host, Began: time.Now()}
	response, err := o.RoundTripper.RoundTrip(request)
	e.Took, e.Err = time.Since(e.Began), err
	if err == nil {
		e.Status, e.Header = response.StatusCode, response.Header
	}
	if e.Status >= http.StatusInternalServerError {
		e.Code = codeOf(response)
	}
	o.see(e)
	return response, err
}

// codeOf reads the body of a response and puts it back.
func codeOf(response *http.Response) string {
	content, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(content))
	var problem Problem
	if err != nil || json.Unmarshal(content, &problem) != nil {
		return ""
	}
	return problem.Code
}
